"""What tools/miq_data.py knows of each data set: where it is on the Hugging Face hub, and how its rows become those that the task files read.

Nothing here downloads: every function takes rows as the hub gives them (dictionaries) and is tested with rows made by hand.
"""
import ast
import random
import re
from dataclasses import dataclass, field
from typing import Callable, Optional

import miq_data_subjects as subjects


def fields(*names):
    """Keeps these fields of a row, in this order."""
    return lambda row: {name: row[name] for name in names}


def same(row):
    return dict(row)


@dataclass(frozen=True)
class Source:
    """A data set on the hub; `splits`: its split -> the file SPLIT.jsonl. `convert` gives a row, or None to leave it out."""
    repo: str
    config: Optional[str] = None
    splits: dict = field(default_factory=dict)
    convert: Callable = same
    names: tuple = ()            # fields whose numbers become the names of their classes
    data_files: Optional[dict] = None
    most: int = 0                # the first so many rows; 0: all


@dataclass(frozen=True)
class DataSet:
    """The files of one folder. `arrange` gets all rows by split and may mix and move them; `by`: a folder for each value of the field."""
    sources: tuple
    arrange: Callable = same
    by: Optional[str] = None
    lines: Optional[str] = None  # the field that is written alone, a line each, to SPLIT.txt
    note: str = ""

    def splits(self):
        """The splits that are written."""
        return ("train", "test") if self.arrange is held_out else tuple(dict.fromkeys(name for source in self.sources for name in source.splits.values()))


# --- rows ------------------------------------------------------------------------------------------------------------

def race_row(row):
    """The hub has the questions as the text of a Python list."""
    problems = row["problems"] if isinstance(row["problems"], list) else ast.literal_eval(row["problems"])
    return {"article": row["article"], "problems": [{key: problem[key] for key in ("question", "answer", "options")} for problem in problems]}


def toxigen_row(row):
    """lm-evaluation-harness: hateful above 5.5 of the two marks together."""
    score = row["toxicity_ai"] + row["toxicity_human"]
    return {"text": row["text"], "toxicity_score": score, "label": "hate" if score > 5.5 else "neutral"}


def labelled(*names):
    keep = fields(*names)
    return lambda row: keep(row) if row["label"] is not None and row["label"] >= 0 else None


def bbq_row(row):
    keep = ("example_id", "question_index", "question_polarity", "context_condition", "category", "answer_info", "additional_metadata", "context", "question",
            "ans0", "ans1", "ans2", "label")
    return {name: row[name] for name in keep}


# --- BOSS: the authors' recipes (spec: Yuan et al. 2023, appendix) ---------------------------------------------------

def plain(text):
    """Tabs become blanks, runs of blanks one."""
    return re.sub(" +", " ", text.replace("\t", " "))


def boss_text(text, label):
    return {"Text": plain(text), "Label": label}


def boss_pair(premise, hypothesis, label):
    return {"Premise": plain(premise), "Hypothesis": plain(hypothesis), "Label": label}


def nli_row(row):
    return boss_pair(row["premise"], row["hypothesis"], row["label"]) if row["label"] >= 0 else None


NLI_NAMES = {"entailment": 0, "neutral": 1, "contradiction": 2}
SENTIMENT_NAMES = {"negative": 0, "positive": 1, "neutral": 2}


def wanli_row(row):
    return boss_pair(row["premise"], row["hypothesis"], NLI_NAMES[row["gold"]])


def contractnli_row(row):
    return boss_pair(row["premise"], row["hypothesis"], NLI_NAMES[row["label"]])


def sst5_row(row):
    """The clear fifths: below .2 negative, from .8 positive, .4 to .6 neutral; the others are left out."""
    value = row["label"]
    label = 0 if value < 0.2 else 1 if value >= 0.8 else 2 if 0.4 <= value < 0.6 else None
    return None if label is None else boss_text(row["sentence"], label)


def dynasent_row(row):
    return boss_text(row["sentence"], SENTIMENT_NAMES[row["gold_label"]]) if row["gold_label"] in SENTIMENT_NAMES else None


def civil_row(row):
    return boss_text(row["text"], int(row["toxicity"] >= 0.5))


def boss_toxigen_row(row):
    return boss_text(row["text"], int((row["toxicity_ai"] + row["toxicity_human"]) / 2 >= 3))


def squad_row(row):
    return {"id": row["id"], "title": row["title"], "context": row["context"], "question": row["question"],
            "answers": {"text": list(row["answers"]["text"]), "answer_start": list(row["answers"]["answer_start"])}}


def mrqa_row(subset):
    def convert(row):
        if row["subset"] != subset:
            return None
        texts = list(dict.fromkeys(list(row["answers"]) + list(row["detected_answers"]["text"])))
        return {"id": row["qid"], "title": "", "context": row["context"], "question": row["question"],
                "answers": {"text": texts, "answer_start": [row["context"].find(text) for text in texts]}}
    return convert


def held_out(splits):
    """Sets that a model is not trained on: 300 rows become the train split, shuffled as MI-optimize does (seed 42)."""
    rows = [row for name in splits for row in splits[name]]
    random.Random(42).shuffle(rows)
    return {"train": rows[:300], "test": rows[300:]}


def boss_prompts(source):
    """The rows of boss/prompts.jsonl from the text of MI-optimize's load_boss.py, which is read and never run."""
    functions = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
    rows = []

    def text(node):
        if isinstance(node, ast.Constant):
            return node.value
        return "".join(part.value for part in node.values)  # an f-string without fields: {{ and }} are braces

    def assigned(body, name):
        for node in body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == name:
                return text(node.value)
        return None

    def branches(node):
        """(compared with, body) of if task_name == "...": and its elifs."""
        while isinstance(node, ast.If):
            if isinstance(node.test, ast.Compare) and isinstance(node.test.comparators[0], ast.Constant):
                yield node.test.comparators[0].value, node.body
            node = node.orelse[0] if len(node.orelse) == 1 else None

    shots = {"QuestionAnswering": 1, "SentimentAnalysis": 3, "NaturalLanguageInference": 3, "ToxicDetection": 2}
    for function, few in (("get_zeroshot_boss", False), ("get_fewshot_boss", True)):
        for statement in functions[function].body:
            for task, body in branches(statement):
                prompt = assigned(body, "prompt")
                if prompt is None:
                    continue
                if not few:
                    rows.append({"task": task, "dataset": "*", "shots": 0, "prefix": prompt})
                    continue
                for inner in body:
                    for dataset, choice in branches(inner):
                        rows.append({"task": task, "dataset": dataset, "shots": shots[task], "prefix": prompt + assigned(choice, "example") + "### Input ###\n"})
    return rows


# --- examinations ----------------------------------------------------------------------------------------------------

def subject_rows(table, description):
    rows = []
    for category, listed in table.items():
        for item in listed.split(", "):
            name, _, title = item.partition("=")
            rows.append({"subject": name, "category": category, "description": description.format(title or name.replace("_", " "))})
    return sorted(rows, key=lambda row: row["subject"])


CEVAL = subject_rows(subjects.CEVAL, "以下是中国关于{}的单项选择题，请选出其中的正确答案。\n\n")
CMMLU = subject_rows(subjects.CMMLU, "以下是关于{}的单项选择题，请直接给出正确答案的选项。\n\n")
MMLU = subject_rows(subjects.MMLU, "The following are multiple choice questions (with answers) about {}.\n\n")


def examination(repo, rows, splits, convert):
    """A folder for each subject, which is the hub's configuration of its name."""
    return {row["subject"]: DataSet((Source(repo, row["subject"], splits, convert),)) for row in rows}


def glue(name, *kept, splits=None):
    splits = splits or {"train": "train", "validation": "validation"}
    return DataSet((Source("nyu-mll/glue", name, splits, fields(*kept, "label", "idx")),))


def simple(repo, config, splits, convert=same, **more):
    return DataSet((Source(repo, config, {name: name for name in splits}, convert, **more),))


def anli(number):
    splits = {f"{part}_r{number}": f"{part}_r{number}" for part in ("train", "test")}
    return DataSet((Source("facebook/anli", None, splits, labelled("premise", "hypothesis", "label")),))


def qa4mre(year):
    return simple("community-datasets/qa4mre", f"{year}.main.EN", ("train",))


CLOZE_OF_BLIMP = fields("sentence_good", "sentence_bad", "field", "linguistics_term", "UID", "pair_id")
BOTH_NLI = {"train": "train", "validation_matched": "test"}

SETS = {
    "winogrande": simple("allenai/winogrande", "winogrande_xl", ("train", "validation"), fields("sentence", "option1", "option2", "answer")),
    "wsc273": simple("lighteval/winograd_wsc", "wsc273", ("test",)),
    "glue_wnli": glue("wnli", "sentence1", "sentence2"),
    "glue_rte": glue("rte", "sentence1", "sentence2"),
    "glue_qnli": glue("qnli", "question", "sentence"),
    "glue_sst2": glue("sst2", "sentence"),
    "glue_mnli": glue("mnli", "premise", "hypothesis", splits={"train": "train", "validation_matched": "validation_matched"}),
    "glue_mnli_mismatched": glue("mnli", "premise", "hypothesis", splits={"validation_mismatched": "validation_mismatched"}),
    "hellaswag": simple("Rowan/hellaswag", None, ("train", "validation")),
    "swag": simple("allenai/swag", "regular", ("train", "validation"), fields("startphrase", "ending0", "ending1", "ending2", "ending3", "label")),
    "piqa": simple("baber/piqa", None, ("train", "validation"), fields("goal", "sol1", "sol2", "label")),
    "mathqa": simple("regisss/math_qa", None, ("train", "validation", "test"), fields("Problem", "options", "correct")),
    "mutual": simple("EleutherAI/mutual", "mutual", ("train", "validation"), fields("answers", "options", "article", "id")),
    "mutual_plus": simple("EleutherAI/mutual", "mutual_plus", ("train", "validation"), fields("answers", "options", "article", "id")),
    "crows_pairs_english": simple("jannalu/crows_pairs_multilingual", "english", ("test",)),
    "toxigen_safenlp": DataSet((Source("skg/toxigen-data", "annotated", {"train": "train", "test": "test"}, toxigen_row),),
                               note="gated: accept the terms on its page of the hub and log in"),
    "pubmedqa": simple("bigbio/pubmed_qa", "pubmed_qa_labeled_fold0_source", ("train", "validation", "test")),
    "openbookqa": simple("allenai/openbookqa", "main", ("train", "validation", "test"), fields("id", "question_stem", "choices", "answerKey")),
    "sciq": simple("allenai/sciq", None, ("train", "validation", "test")),
    "arc_easy": simple("allenai/ai2_arc", "ARC-Easy", ("train", "validation", "test")),
    "arc_challenge": simple("allenai/ai2_arc", "ARC-Challenge", ("train", "validation", "test")),
    "mc_taco": simple("CogComp/mc_taco", None, ("validation", "test"), names=("category",)),
    "race_high": simple("EleutherAI/race", "high", ("train", "validation", "test"), race_row),
    "qa4mre_2011": qa4mre(2011), "qa4mre_2012": qa4mre(2012), "qa4mre_2013": qa4mre(2013),
    "anli_r1": anli(1), "anli_r2": anli(2), "anli_r3": anli(3),
    "truthfulqa_mc": simple("truthfulqa/truthful_qa", "multiple_choice", ("validation",)),
    "truthfulqa_gen": simple("truthfulqa/truthful_qa", "generation", ("validation",)),
    "snli": simple("stanfordnlp/snli", None, ("validation", "test"), labelled("premise", "hypothesis", "label")),
    "gsm8k": simple("openai/gsm8k", "main", ("train", "test")),
    "cnn_dailymail": simple("abisee/cnn_dailymail", "3.0.0", ("test",), fields("id", "article", "highlights")),
    "xsum": simple("EdinburghNLP/xsum", None, ("test",), fields("id", "document", "summary")),
    "followbench": DataSet((Source("YuxinJiang/FollowBench", None, {"train": "test"}),), by="category"),
    "bbq": DataSet((Source("oskarvanderwal/bbq", "All", {"test": "test"}, bbq_row),), by="category"),
    "wikitext2": simple("Salesforce/wikitext", "wikitext-2-raw-v1", ("train", "validation", "test")),
    "wikitext2_document_level": simple("EleutherAI/wikitext_document_level", "wikitext-2-raw-v1", ("train", "validation", "test")),
    "ptb": DataSet((Source("ptb_text_only", "penn_treebank", {name: name for name in ("train", "validation", "test")}),), lines="sentence"),
    "c4": DataSet((Source("allenai/c4", None, {"train": "train"}, fields("text"), data_files={"train": "en/c4-train.00000-of-01024.json.gz"}),
                   Source("allenai/c4", None, {"validation": "validation"}, fields("text"), data_files={"validation": "en/c4-validation.00000-of-00008.json.gz"}))),
    "boss/QuestionAnswering/squad": DataSet((Source("rajpurkar/squad", None, {"train": "train", "validation": "test"}, squad_row),)),
    "boss/QuestionAnswering/advqa": DataSet((Source("UCLNLP/adversarial_qa", "adversarialQA", {"validation": "test"}, squad_row),), held_out),
    "boss/QuestionAnswering/newsqa": DataSet((Source("mrqa-workshop/mrqa", None, {"validation": "test"}, mrqa_row("NewsQA")),), held_out),
    "boss/QuestionAnswering/searchqa": DataSet((Source("mrqa-workshop/mrqa", None, {"validation": "test"}, mrqa_row("SearchQA")),), held_out),
    "boss/SentimentAnalysis/dynasent": DataSet((Source("dynabench/dynasent", "dynabench.dynasent.r1.all", {"test": "test"}, dynasent_row),
                                                Source("dynabench/dynasent", "dynabench.dynasent.r2.all", {"test": "test"}, dynasent_row)), held_out),
    "boss/SentimentAnalysis/sst5": DataSet((Source("stanfordnlp/sst", "default", {"test": "test"}, sst5_row),), held_out),
    "boss/NaturalLanguageInference/mnli": DataSet((Source("nyu-mll/glue", "mnli", BOTH_NLI, nli_row),)),
    "boss/NaturalLanguageInference/anli": DataSet((Source("facebook/anli", None, {f"test_r{n}": f"test_r{n}" for n in (1, 2, 3)}, nli_row),), held_out),
    "boss/NaturalLanguageInference/wanli": DataSet((Source("alisawuffles/WANLI", None, {"test": "test"}, wanli_row),), held_out),
    "boss/NaturalLanguageInference/contractnli": DataSet((Source("kiddothe2b/contract-nli", "contractnli_b", {"test": "test"}, contractnli_row, names=("label",)),), held_out),
    "boss/ToxicDetection/civilcomments": DataSet((Source("google/civil_comments", None, {"train": "train"}, civil_row, most=60000),
                                                  Source("google/civil_comments", None, {"test": "test"}, civil_row))),
    "boss/ToxicDetection/toxigen": DataSet((Source("skg/toxigen-data", "annotated", {"test": "test"}, boss_toxigen_row),), held_out,
                                           note="gated: accept the terms on its page of the hub and log in"),
}
for _name, _set in {**{f"ceval/{k}": v for k, v in examination("ceval/ceval-exam", CEVAL, {n: n for n in ("dev", "val", "test")}, same).items()},
                    **{f"cmmlu/{k}": v for k, v in examination("haonan-li/cmmlu", CMMLU, {"dev": "dev", "test": "test"},
                                                               fields("Question", "A", "B", "C", "D", "Answer")).items()},
                    **{f"mmlu/{k}": v for k, v in examination("cais/mmlu", MMLU, {n: n for n in ("dev", "validation", "test")}, same).items()}}.items():
    SETS[_name] = _set

# Lists of subjects, written beside the subjects' folders.
SUBJECT_LISTS = {"ceval": CEVAL, "cmmlu": CMMLU, "mmlu": MMLU}

# What cannot be had from the hub, and why.
UNOBTAINABLE = {
    "hellaswag_processed": "rows that somebody else prepared; they are nowhere published whole",
    "boss/SentimentAnalysis/amazon": "made of 29 categories of the Amazon reviews (up to 20000 each; 1 star 0, 5 stars 1, 3 stars 2), which the BOSS release has",
    "boss/SentimentAnalysis/semeval": "SemEval-2016 task 4A is given out by its organisers; the BOSS release has it",
    "boss/ToxicDetection/advcivil": "made by the authors of BOSS; their release has it",
    "boss/ToxicDetection/implicithate": "given out against a form by its authors; the BOSS release has it",
}
