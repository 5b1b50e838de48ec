#!/usr/bin/env python3
"""tools/miq_data.py: rows as the hub gives them, made by hand, become the files that the task files read. Needs no network and no package."""
import json
import re
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import miq_data  # noqa: E402
import miq_data_sets as sets  # noqa: E402

# A row of the hub for each kind of set: what the set's conversion reads, and a field more that it drops.
HUB = {
    "winogrande": {"sentence": "A _ b.", "option1": "x", "option2": "y", "answer": "2", "more": 1},
    "wsc273": {"text": "They.", "pronoun": "They", "pronoun_loc": 0, "quote": "", "quote_loc": 0, "options": ["a", "b"], "label": 0, "source": ""},
    "glue_wnli": {"sentence1": "a", "sentence2": "b", "label": 1, "idx": 0},
    "glue_rte": {"sentence1": "a", "sentence2": "b", "label": 1, "idx": 0},
    "glue_qnli": {"question": "a", "sentence": "b", "label": 1, "idx": 0},
    "glue_sst2": {"sentence": "b ", "label": 1, "idx": 0},
    "glue_mnli": {"premise": "a", "hypothesis": "b", "label": 2, "idx": 0},
    "glue_mnli_mismatched": {"premise": "a", "hypothesis": "b", "label": 2, "idx": 0},
    "hellaswag": {"activity_label": "l", "ctx_a": "a", "ctx_b": "b", "ctx": "a b", "endings": ["1", "2", "3", "4"], "label": "3"},
    "swag": {"startphrase": "s", "ending0": "0", "ending1": "1", "ending2": "2", "ending3": "3", "label": 2, "video-id": "v"},
    "piqa": {"goal": "g", "sol1": "1", "sol2": "2", "label": 0},
    "mathqa": {"Problem": "p", "options": "a ) 1 , b ) 2 , c ) 3 , d ) 4 , e ) 5", "correct": "e", "Rationale": "r"},
    "mutual": {"answers": "A", "options": ["a", "b", "c", "d"], "article": "f : x", "id": "1"},
    "mutual_plus": {"answers": "A", "options": ["a", "b", "c", "d"], "article": "f : x", "id": "1"},
    "crows_pairs_english": {"id": 0, "sent_more": "m", "sent_less": "l", "stereo_antistereo": "stereo", "bias_type": "age"},
    "toxigen_safenlp": {"text": "t", "toxicity_ai": 3.0, "toxicity_human": 2.6},
    "pubmedqa": {"QUESTION": "q", "CONTEXTS": ["c"], "final_decision": "maybe"},
    "openbookqa": {"id": "1", "question_stem": "q", "choices": {"text": ["a", "b", "c", "d"], "label": ["A", "B", "C", "D"]}, "answerKey": "D"},
    "sciq": {"question": "q", "distractor1": "1", "distractor2": "2", "distractor3": "3", "correct_answer": "c", "support": "s"},
    "arc_easy": {"id": "1", "question": "q", "choices": {"text": ["a", "b"], "label": ["1", "2"]}, "answerKey": "2"},
    "arc_challenge": {"id": "1", "question": "q", "choices": {"text": ["a", "b"], "label": ["1", "2"]}, "answerKey": "2"},
    "mc_taco": {"sentence": "s", "question": "q", "answer": "a", "label": 0, "category": 1},
    "race_high": {"article": "a", "problems": str([{"question": "q", "answer": "B", "options": ["x", "it's"]}])},
    "qa4mre_2011": {"document_str": "d", "question_str": "q", "answer_options": {"answer_id": ["1"], "answer_str": ["a"]}, "correct_answer_id": "1"},
    "anli_r1": {"premise": "p", "hypothesis": "h", "label": 0, "uid": "u", "reason": ""},
    "truthfulqa_mc": {"question": "q", "mc1_targets": {"choices": ["a"], "labels": [1]}, "mc2_targets": {"choices": ["a", "b"], "labels": [1, 0]}},
    "truthfulqa_gen": {"question": "q", "correct_answers": ["a"], "incorrect_answers": ["b"]},
    "snli": {"premise": "p", "hypothesis": "h", "label": 1},
    "gsm8k": {"question": "q", "answer": "1 #### 1"},
    "cnn_dailymail": {"id": "1", "article": "a", "highlights": "h"},
    "xsum": {"id": "1", "document": "d", "summary": "s"},
    "followbench": {"category": "example", "example_id": 1, "source": "s", "level": 1, "instruction": "i", "target": "t"},
    "bbq": {"example_id": 0, "question_index": "1", "question_polarity": "neg", "context_condition": "ambig", "category": "Age",
            "answer_info": {"ans0": ["a", "old"], "ans1": ["b", "nonOld"], "ans2": ["Unknown", "unknown"]}, "additional_metadata": {"stereotyped_groups": ["old"]},
            "context": "c", "question": "q", "ans0": "a", "ans1": "b", "ans2": "Unknown", "label": 2},
    "wikitext2": {"text": " = A = \n"},
    "wikitext2_document_level": {"page": " = A = \n"},
    "ptb": {"sentence": "a <unk> b"},
    "c4": {"text": "t", "url": "u", "timestamp": 0},
    "ceval": {"id": 0, "question": "q", "A": "a", "B": "b", "C": "c", "D": "d", "answer": "A", "explanation": ""},
    "cmmlu": {"Question": "q", "A": "a", "B": "b", "C": "c", "D": "d", "Answer": "A", "__index_level_0__": 0},
    "mmlu": {"question": "q", "subject": "s", "choices": ["a", "b", "c", "d"], "answer": 3},
    "blimp": {"sentence_good": "g", "sentence_bad": "b", "field": "f", "linguistics_term": "t", "UID": "u", "pair_id": 0},
    "boss/QuestionAnswering/squad": {"id": "1", "title": "t", "context": "c a", "question": "q", "answers": {"text": ["a"], "answer_start": [2]}},
    "boss/QuestionAnswering/advqa": {"id": "1", "title": "t", "context": "c a", "question": "q", "answers": {"text": ["a"], "answer_start": [2]}},
    "boss/QuestionAnswering/newsqa": {"subset": "NewsQA", "qid": "1", "context": "c a", "question": "q", "answers": ["a"], "detected_answers": {"text": ["a", "c"]}},
    "boss/QuestionAnswering/searchqa": {"subset": "SearchQA", "qid": "1", "context": "c a", "question": "q", "answers": ["a"], "detected_answers": {"text": ["a"]}},
    "boss/SentimentAnalysis/dynasent": {"sentence": "s", "gold_label": "neutral"},
    "boss/SentimentAnalysis/sst5": {"sentence": "s", "label": 0.9},
    "boss/NaturalLanguageInference/mnli": {"premise": "p", "hypothesis": "h", "label": 1},
    "boss/NaturalLanguageInference/anli": {"premise": "p", "hypothesis": "h", "label": 1},
    "boss/NaturalLanguageInference/wanli": {"premise": "p", "hypothesis": "h", "gold": "contradiction"},
    "boss/NaturalLanguageInference/contractnli": {"premise": "p", "hypothesis": "h", "label": 1},
    "boss/ToxicDetection/civilcomments": {"text": "t", "toxicity": 0.5},
    "boss/ToxicDetection/toxigen": {"text": "t", "toxicity_ai": 4.0, "toxicity_human": 2.0},
}
CLASSES = {"mc_taco": {"category": ["Event Duration", "Event Ordering"]}, "boss/NaturalLanguageInference/contractnli": {"label": ["contradiction", "entailment", "neutral"]}}


def hub_row(folder):
    for name in (folder, folder.split("/")[0], re.sub(r"_\d+$", "_2011", folder), re.sub(r"_r\d$", "_r1", folder)):
        if name in HUB:
            return name, HUB[name]
    raise KeyError(folder)


def file_of(folder, data, split="test"):
    return [json.loads(line) for line in (data / folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


class Conversions(unittest.TestCase):
    def test_every_set_is_written_from_rows_of_the_hub(self):
        for folder, data_set in miq_data.all_sets().items():
            name, row = hub_row(folder)
            with self.subTest(folder), tempfile.TemporaryDirectory() as data:
                written = miq_data.get_set(folder, data_set, Path(data), False, lambda source, split: ([row] * 301, CLASSES.get(name, {})))
                self.assertTrue(written)
                self.assertTrue(miq_data.is_there(folder, data_set, Path(data)))
                self.assertEqual(miq_data.get_set(folder, data_set, Path(data), False, None), [])
                self.assertEqual([path.name for path in Path(data).rglob(".*")], [])

    # The fields that a task's templates and steps read are those of the rows that its set gets.
    def test_task_files_find_their_fields(self):
        steps = {"hellaswag": {"ctx_a", "ctx_b", "activity_label", "endings"}, "mathqa_options": {"options"}, "mutual_detokenize": {"article", "options"},
                 "race": {"article", "problems"}, "wsc273": {"text", "pronoun", "pronoun_loc", "options"}, "wikitext_detokenize": {"page"},
                 "bbq": {"ans0", "answer_info", "additional_metadata", "question_polarity", "label"}}
        made_by_steps = {"query", "choices", "text", "options", "answer", "before", "after", "targets"}
        checked = 0
        for path in sorted(miq_data.TASKS.glob("*.yaml")):
            text = path.read_text(encoding="utf-8")
            if re.search(r"^tasks:|^include:", text, re.M) or path.stem == "hellaswag_processed":
                continue
            step = re.search(r"^prepare: (\w+)", text, re.M)
            wanted = {re.split(r"[.|[]", field)[0] for field in re.findall(r"\{\{([^}]*)\}\}", text)} - {"SUBJECT", "SUBJECT_DESCRIPTION"}
            if step:
                wanted = (wanted - made_by_steps) | steps[step[1]]
            for folder in miq_data.folders_of(path.stem, miq_data.all_sets()):
                if folder in sets.UNOBTAINABLE:
                    continue
                data_set = miq_data.all_sets()[folder]
                name, row = hub_row(folder)
                made = miq_data.converted(data_set.sources[0], [row], CLASSES.get(name, {}))[0]
                with self.subTest(f"{path.stem} {folder}"):
                    self.assertLessEqual(wanted, set(made))
                checked += 1
        self.assertGreater(checked, 200)

    def test_labels(self):
        self.assertEqual(sets.toxigen_row(HUB["toxigen_safenlp"])["label"], "hate")
        self.assertEqual(sets.toxigen_row({"text": "t", "toxicity_ai": 3.0, "toxicity_human": 2.5})["label"], "neutral")
        self.assertEqual([(sets.sst5_row({"sentence": "s", "label": x}) or {}).get("Label") for x in (0.1, 0.2, 0.39, 0.4, 0.59, 0.6, 0.8)], [0, None, None, 2, 2, None, 1])
        self.assertEqual([sets.civil_row({"text": "t", "toxicity": x})["Label"] for x in (0.49, 0.5)], [0, 1])
        self.assertEqual([sets.boss_toxigen_row({"text": "t", "toxicity_ai": 3, "toxicity_human": x})["Label"] for x in (2.9, 3)], [0, 1])
        self.assertIsNone(sets.SETS["snli"].sources[0].convert({"premise": "p", "hypothesis": "h", "label": -1}))
        self.assertIsNone(sets.dynasent_row({"sentence": "s", "gold_label": "mixed"}))
        self.assertEqual(sets.wanli_row(HUB["boss/NaturalLanguageInference/wanli"])["Label"], 2)
        self.assertEqual(sets.boss_text("a\tb   c", 0)["Text"], "a b c")

    def test_race_is_read_from_the_text_of_a_list(self):
        self.assertEqual(sets.race_row(HUB["race_high"])["problems"], [{"question": "q", "answer": "B", "options": ["x", "it's"]}])

    def test_answers_of_mrqa_are_a_set(self):
        row = sets.mrqa_row("NewsQA")(HUB["boss/QuestionAnswering/newsqa"])
        self.assertEqual(row["answers"], {"text": ["a", "c"], "answer_start": [2, 0]})
        self.assertIsNone(sets.mrqa_row("SearchQA")(HUB["boss/QuestionAnswering/newsqa"]))

    def test_held_out_sets_give_300_rows_to_train(self):
        rows = [{"n": n} for n in range(310)]
        parts = sets.held_out({"test": rows})
        self.assertEqual((len(parts["train"]), len(parts["test"])), (300, 10))
        self.assertEqual(sorted(row["n"] for split in parts.values() for row in split), list(range(310)))
        self.assertEqual(sets.held_out({"a": rows[:5], "b": rows[5:]}), parts)

    def test_classes_become_their_names(self):
        with tempfile.TemporaryDirectory() as data:
            miq_data.get_set("mc_taco", sets.SETS["mc_taco"], Path(data), False, lambda source, split: ([HUB["mc_taco"]], CLASSES["mc_taco"]))
            self.assertEqual(file_of("mc_taco", Path(data))[0]["category"], "Event Ordering")

    def test_subjects_have_descriptions(self):
        self.assertEqual([len(rows) for rows in (sets.CEVAL, sets.CMMLU, sets.MMLU)], [52, 67, 57])
        self.assertIn({"subject": "law", "category": "Humanities", "description": "以下是中国关于法学的单项选择题，请选出其中的正确答案。\n\n"}, sets.CEVAL)
        with tempfile.TemporaryDirectory() as data:
            self.assertEqual(miq_data.beside(["mmlu/anatomy"], Path(data), None), ["mmlu/subjects.jsonl"])
            self.assertEqual(len((Path(data) / "mmlu/subjects.jsonl").read_text().splitlines()), 57)

    def test_prompts_are_read_from_the_source(self):
        source = '''
import nothing_that_is_there
def get_fewshot_boss(task_name, dataset_name, n):
    if task_name == "QuestionAnswering":
        prompt = f"Do {{it}}.\\n\\
Now.\\n"
        if dataset_name == 'squad':
            example = "E \\'1\\'\\n"
        if dataset_name == 'advqa':
            example = "F\\n"
        prompt = prompt + example + "### Input ###\\n"
    elif task_name == "ToxicDetection":
        prompt = f"T"
        if dataset_name == "toxigen":
            example = "G"
        prompt = prompt + example + "### Input ###\\n"
    return prompt
def get_zeroshot_boss(task_name, dataset_name):
    if task_name == "QuestionAnswering":
        prompt = f"Zero {{it}}"
    elif task_name == "NameEntityRecognition":
        pass
    return prompt
'''
        self.assertEqual(sets.boss_prompts(source), [
            {"task": "QuestionAnswering", "dataset": "*", "shots": 0, "prefix": "Zero {it}"},
            {"task": "QuestionAnswering", "dataset": "squad", "shots": 1, "prefix": "Do {it}.\nNow.\nE '1'\n### Input ###\n"},
            {"task": "QuestionAnswering", "dataset": "advqa", "shots": 1, "prefix": "Do {it}.\nNow.\nF\n### Input ###\n"},
            {"task": "ToxicDetection", "dataset": "toxigen", "shots": 2, "prefix": "TG### Input ###\n"}])


class Names(unittest.TestCase):
    def test_every_task_has_its_sets(self):
        known = miq_data.all_sets()
        for path in sorted(miq_data.TASKS.glob("*.yaml")):
            with self.subTest(path.stem):
                self.assertTrue(miq_data.folders_of(path.stem, known))

    def test_sources_are_those_of_the_task_files(self):
        known = miq_data.all_sets()
        for path in sorted(miq_data.TASKS.glob("*.yaml")):
            source = re.search(r"^source: (\S+)", path.read_text(encoding="utf-8"), re.M)
            folders = [folder for folder in miq_data.folders_of(path.stem, known) if folder in known]
            if source and source[1] != "boss":
                with self.subTest(path.stem):
                    self.assertEqual(known[folders[0]].sources[0].repo, source[1])

    def test_names(self):
        known = miq_data.all_sets()
        self.assertEqual(miq_data.folders_of("mnli_mismatch", known), ["glue_mnli_mismatched", "glue_mnli"])
        self.assertEqual(miq_data.folders_of("truthfulqa_mc2", known), ["truthfulqa_mc"])
        self.assertEqual(len(miq_data.folders_of("boss", known)), 16)
        self.assertEqual(len(miq_data.folders_of("blimp", known)), 67)
        self.assertEqual(miq_data.folders_of("blimp/wh_island", known), ["blimp/wh_island"])
        with self.assertRaises(miq_data.Problem):
            miq_data.folders_of("hellaswg", known)

    def test_problems_are_told(self):
        source = sets.SETS["piqa"].sources[0]
        with self.assertRaisesRegex(miq_data.Problem, "baber/piqa has no field 'goal' any more: its rows have aim"):
            miq_data.converted(source, [{"aim": ""}], {})
        with tempfile.TemporaryDirectory() as data, self.assertRaisesRegex(miq_data.Problem, "no rows"):
            miq_data.get_set("piqa", sets.SETS["piqa"], Path(data), False, lambda *_: ([], {}))

    def test_a_failed_write_leaves_nothing(self):
        def lines():
            yield "{}"
            raise OSError("disk full")
        with tempfile.TemporaryDirectory() as data:
            with self.assertRaises(OSError):
                miq_data.write_whole(Path(data) / "a" / "test.jsonl", lines())
            self.assertEqual(list((Path(data) / "a").iterdir()), [])


if __name__ == "__main__":
    unittest.main()
