// The page's style sheet and the one script, which sorts tables. Nothing in it comes from outside.
#pragma once

namespace miq::executor::report {

// Colours: --s0 .. --s7 tell series apart (3:1 against the page, apart from each other for the colour-blind too; shapes tell them as well),
// w and b are the two arms of a heat map, q a ramp for bits.
constexpr const char* kStyle = R"css(
:root{color-scheme:light;--page:#f7f7f5;--card:#fff;--ink:#16161a;--soft:#4b4b48;--muted:#63635e;--line:#e3e3de;--rule:#c9c9c2;--accent:#1f66bd;--bad:#b3282d;--good:#1f66bd;
--s0:#2a78d6;--s1:#da5e18;--s2:#45946b;--s3:#a03d91;--s4:#64581c;--s5:#3e229f;--s6:#b781b2;--s7:#552945;--rest:#b9b9b2;--zebra:#fafaf8;
--w1:#f7d9d6;--w2:#f3bcb7;--w3:#ef9d97;--w4:#b3282d;--b1:#dbe9fa;--b2:#bcd6f4;--b3:#94bdec;--b4:#1c5ba8;--z:#efefec;--deep:#fff}
@media screen and (prefers-color-scheme:dark){:root{color-scheme:dark;--page:#131315;--card:#1b1b1e;--ink:#f1f1ee;--soft:#c6c6c1;--muted:#a5a5a0;--line:#303034;--rule:#4a4a50;--accent:#7fb2f0;--bad:#f28b86;--good:#7fb2f0;
--s0:#5598e7;--s1:#d38640;--s2:#0bdba6;--s3:#d3477c;--s4:#e3cf45;--s5:#894ed2;--s6:#f2c7fb;--s7:#5f7010;--rest:#5c5c62;--zebra:#1f1f23;
--w1:#3c2527;--w2:#562b2c;--w3:#7d3231;--w4:#e6807b;--b1:#1e2b3c;--b2:#20395a;--b3:#235189;--b4:#7fb2f0;--z:#2a2a2e;--deep:#111}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main,header,footer{max-width:1280px;margin:0 auto;padding:0 24px}
header{padding-top:40px}
h1{font-size:30px;line-height:1.2;margin:0;letter-spacing:-.01em;overflow-wrap:anywhere}
h2{font-size:20px;margin:0 0 14px;letter-spacing:-.005em}
.sub{color:var(--soft);margin:6px 0 0;overflow-wrap:anywhere}
nav{display:flex;flex-wrap:wrap;gap:4px 18px;margin:18px 0 0;font-size:14px}
a{color:var(--accent);text-decoration-thickness:1px;text-underline-offset:2px}
nav a{text-decoration:none}nav a:hover,nav a:focus{text-decoration:underline}
section{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:22px 24px;margin:20px 0}
section>*:last-child{margin-bottom:0}
p{margin:0 0 12px;max-width:78ch;overflow-wrap:anywhere}
.note{color:var(--muted);font-size:13.5px;line-height:1.45}
ul{margin:0 0 14px;padding-left:20px;max-width:84ch}
li{margin:0 0 7px;overflow-wrap:anywhere}li::marker{color:var(--muted)}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:14px 28px;margin:0 0 20px}
.facts div{border-left:2px solid var(--line);padding-left:12px;min-width:0}
.facts dt{color:var(--soft);font-size:13px;overflow-wrap:anywhere}
.facts dd{margin:0;font-size:26px;line-height:1.25;font-weight:600;letter-spacing:-.01em}
.facts .beside{font-size:13px;font-weight:400;letter-spacing:0;line-height:1.4;color:var(--soft);overflow-wrap:anywhere}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));gap:26px 32px;margin:0 0 16px;align-items:start}
figure{margin:0;min-width:0}
.wide{max-width:none}.half{max-width:640px}
figcaption{font-weight:600;font-size:15px;margin:0 0 6px;overflow-wrap:anywhere}
.legend{display:flex;flex-wrap:wrap;gap:3px 16px;margin:0 0 8px;padding:0;list-style:none;font-size:13px;color:var(--soft);max-width:none}
.legend li{display:flex;align-items:center;gap:6px;margin:0;min-width:0}
.key{width:14px;height:14px;flex:none}
.scroll{overflow-x:auto;-webkit-overflow-scrolling:touch;background:linear-gradient(var(--card),var(--card)) left/14px 100% no-repeat local,linear-gradient(var(--card),var(--card)) right/14px 100% no-repeat local,
linear-gradient(to right,var(--rule),transparent) left/10px 100% no-repeat scroll,linear-gradient(to left,var(--rule),transparent) right/10px 100% no-repeat scroll}
.scroll:focus-visible,summary:focus-visible,a:focus-visible,button:focus-visible{outline:2px solid var(--accent);outline-offset:2px;border-radius:3px}
figure .scroll>svg{display:block;width:100%;height:auto;min-width:400px}
figure.wide .scroll>svg{min-width:720px}
svg text{font:12.5px system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;fill:var(--soft);font-variant-numeric:tabular-nums}
svg .name{fill:var(--ink);font-size:13px}svg .small{font-size:12px}svg .strong{fill:var(--ink);font-weight:600}svg .muted{fill:var(--muted)}svg .halo{paint-order:stroke;stroke:var(--card);stroke-width:3.5px;stroke-linejoin:round}
.grid{stroke:var(--line)}.axis{stroke:var(--rule)}
.reference{stroke:var(--muted);stroke-dasharray:5 4}
.front{fill:none;stroke:var(--ink);stroke-width:1.4;opacity:.4}
.join{fill:none;stroke:var(--c);stroke-width:1.4;opacity:.45}
.shapes{position:absolute}
.s0{--c:var(--s0)}.s1{--c:var(--s1)}.s2{--c:var(--s2)}.s3{--c:var(--s3)}.s4{--c:var(--s4)}.s5{--c:var(--s5)}.s6{--c:var(--s6)}.s7{--c:var(--s7)}.rest{--c:var(--rest)}
.worse{--c:var(--bad)}.better{--c:var(--good)}.same{--c:var(--muted)}
.mark{fill:var(--c);stroke:var(--card);stroke-width:1.2}.mark.hollow{fill:var(--card);stroke:var(--c);stroke-width:1.8}
.curve{fill:none;stroke:var(--c);stroke-width:1.8;stroke-linejoin:round}
.bar{fill:var(--c)}.whisker{stroke:var(--c);stroke-width:1.8}.hover{fill:transparent}
.tile{fill:var(--t)}.q1{--t:#e3eefb;--on:#111}.q2{--t:#cfe1f7;--on:#111}.q3{--t:#b5d0f2;--on:#111}.q4{--t:#96bcea;--on:#111}.q5{--t:#74a5e0;--on:#111}.q6{--t:#528dd4;--on:#111}.q7{--t:#3474c2;--on:#fff}.q8{--t:#205ca6;--on:#fff}.q9{--t:#124484;--on:#fff}
svg .on{fill:var(--on)}
table{border-collapse:collapse;font-size:14px;font-variant-numeric:tabular-nums;line-height:1.4;min-width:min(100%,420px)}
.tables{margin:0 0 16px}
caption{text-align:left;font-weight:600;font-size:15px;padding:0 0 8px}
caption .legend{font-weight:400;margin:6px 0 0}.legend>span{display:flex;align-items:center;gap:6px}.legend i{width:14px;height:14px;border-radius:2px;border:1px solid var(--rule)}
th,td{padding:6px 12px;text-align:left;vertical-align:top;border-bottom:1px solid var(--line)}
thead th{color:var(--soft);font-weight:600;font-size:13px;border-bottom:1px solid var(--rule);vertical-align:bottom}
tbody th{font-weight:500;position:sticky;left:0;background:var(--card);z-index:1}
tbody th>span{display:block;width:max-content;max-width:270px;overflow-wrap:anywhere}
.n{text-align:right;white-space:nowrap}
td small,th small{display:block;color:var(--muted);font-size:12px;font-weight:400}
td.strong{font-weight:600}td.bad,td.bad small,.bad{color:var(--bad)}td.good,td.good small,.good{color:var(--good)}
td.words{min-width:220px;max-width:420px;overflow-wrap:anywhere}
th.best{font-weight:700}th.best small{color:var(--accent)}
thead button{all:unset;cursor:pointer}thead button{position:relative}thead button::after{content:"↕";opacity:0;position:absolute;left:100%;padding-left:1px;font-size:11px}thead button:hover::after,thead button:focus-visible::after{opacity:.7}
thead [aria-sort=ascending] button::after{content:"↑";opacity:1}thead [aria-sort=descending] button::after{content:"↓";opacity:1}
.map td{text-align:center;white-space:nowrap;border:2px solid var(--card);min-width:66px;padding:4px 6px}
.map thead th+th{text-align:center;font-weight:500;max-width:130px;overflow-wrap:break-word}
.map td small{color:inherit}
.w1{background:var(--w1)}.w2{background:var(--w2)}.w3{background:var(--w3)}.w4{background:var(--w4);color:var(--deep)}.b1{background:var(--b1)}.b2{background:var(--b2)}.b3{background:var(--b3)}.b4{background:var(--b4);color:var(--deep)}.z{background:var(--z)}
.own{outline:2px solid var(--ink);outline-offset:-4px;font-weight:600}
.map td.mean,.map td.none{color:var(--soft)}.map th.mean{color:var(--soft)}
details{border-top:1px solid var(--line);padding:10px 0 0;margin:0 0 10px}
summary{cursor:pointer;font-weight:500;padding:2px 0;overflow-wrap:anywhere}
details[open]>summary{margin-bottom:12px}
pre{margin:0 0 12px;padding:14px 16px;background:var(--page);border:1px solid var(--line);border-radius:6px;overflow-x:auto;font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono",monospace}
footer{color:var(--muted);font-size:13px;padding-bottom:40px}
@media (max-width:640px){body{font-size:15px}main,header,footer{padding-left:14px;padding-right:14px}header{padding-top:24px}h1{font-size:24px}section{padding:16px 14px;margin:14px 0}.facts{grid-template-columns:1fr 1fr;gap:12px 16px}.facts dd{font-size:21px}th,td{padding:6px 9px}tbody th>span{max-width:140px}}
@media print{:root{--page:#fff}body{font-size:10.5pt}main,header,footer{max-width:none;padding:0}section{border:0;padding:0;margin:0 0 16pt}nav,thead button::after{display:none}h1{font-size:20pt}h2{font-size:14pt;break-after:avoid}figure,tr{break-inside:avoid}p,ul{max-width:none}
.scroll{overflow:visible;background:none}.figures{grid-template-columns:1fr 1fr}.figures.alone{grid-template-columns:1fr}figure .scroll>svg,figure.wide .scroll>svg{min-width:0}
table{font-size:7.5pt;min-width:0}thead th{font-size:7pt}th,td{padding:2pt 4pt}td small,th small{font-size:6.5pt}.n{white-space:normal}.map td{min-width:0;padding:1pt 2pt}.map td,.tile,.bar,.mark,i{-webkit-print-color-adjust:exact;print-color-adjust:exact}
tbody th{position:static}tbody th>span{max-width:110pt}td.words{min-width:0}pre{font-size:7pt;white-space:pre-wrap}a{color:inherit;text-decoration:none}}
)css";

// Makes the heads of tables buttons that sort. Without it the page says the same.
constexpr const char* kScript = R"js(
document.querySelectorAll('table.sorts').forEach(function(table){
  var body=table.tBodies[0];
  function value(row,i){
    var cell=row.cells[i],v=cell.dataset.v;
    if(v===undefined)v=parseFloat(cell.firstChild?cell.firstChild.textContent.replace(/,/g,'').replace('\u2212','-').replace('\u00b1',''):'');
    return isNaN(v)||i===0?null:Number(v);
  }
  table.querySelectorAll('thead th').forEach(function(head,i){
    var button=document.createElement('button');button.type='button';
    while(head.firstChild)button.appendChild(head.firstChild);
    head.appendChild(button);
    button.addEventListener('click',function(){
      var down=head.getAttribute('aria-sort')==='ascending';
      table.querySelectorAll('thead th').forEach(function(h){h.removeAttribute('aria-sort')});
      head.setAttribute('aria-sort',down?'descending':'ascending');
      Array.from(body.rows).sort(function(a,b){
        var x=value(a,i),y=value(b,i);
        if(x===null&&y===null){var s=a.cells[i].textContent,t=b.cells[i].textContent;return (down?-1:1)*s.localeCompare(t,undefined,{numeric:true})}
        if(x===null||y===null)return x===null?1:-1;
        return (down?-1:1)*(x-y);
      }).forEach(function(row){body.appendChild(row)});
    });
  });
});
addEventListener('beforeprint',function(){document.querySelectorAll('details').forEach(function(d){d.open=true})});
function unfold(){var d=location.hash&&document.getElementById(location.hash.slice(1));if(d&&d.tagName==='DETAILS')d.open=true}
addEventListener('hashchange',unfold);unfold();
)js";

}  // namespace miq::executor::report
