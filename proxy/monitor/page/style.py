"""The style sheet, the frame of every page, and the policy that allows this sheet, the one script, and no more."""

from __future__ import annotations

import base64
import hashlib

from proxy.monitor.page.html import Html, Part, tag
from proxy.monitor.page.script import REFRESH_MS, SCRIPT

CSS = """
:root{color-scheme:light dark;--bg:#f6f7f9;--card:#fff;--ink:#1b2430;--dim:#5b6675;--line:#dfe3e9;
--pass:#12733d;--fail:#b3261e;--wait:#8a5a00;--passbg:#e3f5ea;--failbg:#fdeae8;--waitbg:#fff3da;--link:#0b5cad;
--code:#f1f3f6;--del:#fde2df;--ins:#d9f2e1}
@media(prefers-color-scheme:dark){:root{--bg:#12161c;--card:#1b212a;--ink:#e6eaf0;--dim:#9aa6b5;--line:#303948;
--pass:#6fd79a;--fail:#ff9a90;--wait:#f2c265;--passbg:#143524;--failbg:#431c19;--waitbg:#3a2c0c;--link:#86baf5;
--code:#12161c;--del:#5a2622;--ins:#1c4a30}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main,header{max-width:76rem;margin:0 auto;padding:0 1rem}
header{display:flex;flex-wrap:wrap;gap:.25rem 1rem;align-items:baseline;padding-top:1rem}
header a.home{font-weight:700;font-size:1.1rem;color:var(--ink);text-decoration:none}
header .about{color:var(--dim)}
nav{margin-left:auto;display:flex;flex-wrap:wrap;gap:.25rem 1rem}
a{color:var(--link)}
a:focus-visible,button:focus-visible,summary:focus-visible,.scroll:focus-visible{outline:3px solid var(--link);
outline-offset:2px;border-radius:4px}
.skip{position:absolute;left:-99rem}.skip:focus{left:1rem;top:.5rem;background:var(--card);padding:.5rem}
section{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:1rem;margin:1rem 0}
h1{font-size:1.5rem;margin:0;line-height:1.25}h2{font-size:1.1rem;margin:0 0 .5rem}
h3{font-size:1rem;margin:.75rem 0 .25rem}
.verdict{border-left:8px solid var(--wait)}
.verdict.pass{border-color:var(--pass)}.verdict.fail{border-color:var(--fail)}
.verdict h2{margin:.75rem 0 .35rem}.broken h2{margin-top:0}.verdict p{margin:.4rem 0}
.verdict ul{margin:.25rem 0;padding-left:1.2rem}
.figures{color:var(--dim)}
.chip{display:inline-block;padding:.05rem .55rem;border-radius:99px;font-size:.85rem;font-weight:600;white-space:nowrap;
background:var(--code);color:var(--dim)}
.chip.pass,.chip.good{background:var(--passbg);color:var(--pass)}
.chip.fail,.chip.bad{background:var(--failbg);color:var(--fail)}
.chip.inconclusive,.chip.wait{background:var(--waitbg);color:var(--wait)}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.4rem .6rem;border-bottom:1px solid var(--line);vertical-align:top}
th{font-size:.85rem;color:var(--dim);font-weight:600;white-space:nowrap}
td.n,th.n{text-align:right;white-space:nowrap}tr:last-child td{border-bottom:0}
.name{overflow-wrap:anywhere;font-weight:600}.dim{color:var(--dim)}.small{font-size:.875rem}
.cols{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(22rem,100%),1fr));gap:1rem}
.cols>*{min-width:0}.cols>section{margin:0}main>.cols{margin:1rem 0}
pre,.said{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--code);border:1px solid var(--line);
border-radius:8px;padding:.6rem;margin:.35rem 0;font:.875rem/1.45 ui-monospace,monospace;unicode-bidi:plaintext;
max-height:32rem;overflow:auto}
.said{font-family:inherit;font-size:.95rem}
.del{background:var(--del)}.ins{background:var(--ins)}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1rem;margin:0}
dt{color:var(--dim)}dd{margin:0;overflow-wrap:anywhere}
form{display:inline}button{font:inherit;padding:.35rem .9rem;border-radius:8px;border:1px solid var(--line);
background:var(--code);color:var(--ink);cursor:pointer;min-height:2.5rem}
nav a,td a,.filters a{display:inline-block;padding:.15rem 0}
.filters{display:flex;flex-wrap:wrap;gap:.25rem 1rem;margin-bottom:.5rem}
[aria-current]{font-weight:700;color:var(--ink);text-decoration:none}
summary{cursor:pointer;padding:.25rem 0}
body[data-stale]::before{content:"Not refreshed: the monitor does not answer.";
display:block;position:sticky;top:0;z-index:1;
background:var(--failbg);color:var(--fail);padding:.4rem 1rem;font-weight:600}
.since{font-size:1rem;font-weight:400;color:var(--dim)}
.broken{border-top:1px solid var(--line);margin-top:.75rem;padding-top:.75rem}
.act{display:inline-block;background:var(--link);color:var(--card);padding:.3rem .9rem;border-radius:8px;
font-weight:600;text-decoration:none;margin-right:.75rem}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.2rem 1.25rem;padding:0;margin:0 0 .5rem;color:var(--dim)}
.key{width:1.5rem;height:.75rem;vertical-align:middle}
.off{white-space:nowrap}.id{font:.85rem ui-monospace,monospace}
article{border-top:1px solid var(--line);padding-top:.25rem;margin-top:.75rem}
article:target{outline:2px solid var(--link);outline-offset:6px;border-radius:4px}
#budgets .all{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(20rem,100%),1fr));gap:0 1.5rem}
#budgets .apart{grid-column:1/-1}
.charts{grid-template-columns:repeat(auto-fill,minmax(min(22rem,100%),1fr))}
figure{margin:.25rem 0 .75rem}figcaption{margin-bottom:.25rem}
.chart{display:block;width:100%;height:auto;max-width:34rem}
svg text{font:11px system-ui,sans-serif;fill:var(--dim);paint-order:stroke}
svg line,svg polyline{fill:none;stroke-width:1.5;vector-effect:non-scaling-stroke}
svg .axis{stroke:var(--line)}svg text.limit,svg text.over{stroke:var(--card);stroke-width:3px}svg text.axis{stroke:none}
svg .seen{stroke:var(--link);stroke-width:2.5}svg .upto{fill:var(--link);opacity:.16}
svg .stretch{fill:var(--dim);opacity:.35}svg .stretch.over{fill:var(--fail);opacity:.5}
svg .limit{stroke:var(--fail);stroke-dasharray:7 4}svg text.limit,svg text.over{fill:var(--fail);font-weight:600}
svg .floor{stroke:var(--pass);stroke-dasharray:2 3;stroke-width:2}svg line.over{stroke:var(--fail)}
.bar{display:block;width:100%;height:.9rem;border-radius:99px;margin:.25rem 0 .5rem}
svg .scored{fill:var(--pass)}svg .lost{fill:var(--fail)}svg .ineligible{fill:var(--line)}
dl.tight{grid-template-columns:max-content 1fr;gap:0 .75rem}.tight dt{margin:0}
td ul,dd ul{margin:0;padding-left:1.1rem}tbody th{white-space:normal;color:var(--ink);font-weight:400}
.history{list-style:none;padding:0;margin:0}.history li{padding:.25rem 0;overflow-wrap:anywhere}
.steps{list-style:none;display:flex;flex-wrap:wrap;padding:0;gap:.4rem;margin:.5rem 0}
.steps li{padding:.15rem .8rem;border:1px solid var(--line);border-radius:99px;color:var(--dim)}
.steps [aria-current]{background:var(--link);color:var(--card);border-color:var(--link)}
form.filters{align-items:center}label{display:inline-flex;gap:.35rem;align-items:center;max-width:100%}
select{font:inherit;color:var(--ink);background:var(--code);border:1px solid var(--line);border-radius:8px;
padding:.35rem;min-width:0;width:15rem;max-width:100%}
select:focus-visible,input:focus-visible,pre:focus-visible,.said:focus-visible{outline:3px solid var(--link);
outline-offset:2px}
.reader{display:flex;flex-wrap:wrap;gap:.25rem 1.25rem;align-items:baseline;margin:1rem 0 0}
.reader a,.reader .end{padding:.35rem .9rem;border:1px solid var(--line);border-radius:8px;background:var(--card);
text-decoration:none}.reader .end{color:var(--dim)}
kbd{font:.8rem ui-monospace,monospace;border:1px solid var(--line);border-radius:4px;padding:0 .3rem}
.here{color:var(--card);background:var(--fail);border-radius:3px;padding:0 .25rem;margin-right:.25rem;
font-size:.75rem;font-weight:700}
.values{overflow-wrap:anywhere;font:.875rem/1.45 ui-monospace,monospace;unicode-bidi:plaintext}
tr.changed td,tr.added td,tr.missing td{background:var(--failbg)}tr.reworded td{background:var(--waitbg)}
tr.same td{color:var(--dim)}.fate{white-space:nowrap}
.place{display:block;width:100%;height:auto;max-width:28rem}svg .prompt{fill:var(--code);stroke:var(--line)}
svg .fact{fill:var(--pass)}svg .fact.gone{fill:var(--fail)}svg .asked{fill:var(--dim);opacity:.4}
q{quotes:none;background:var(--code);padding:0 .2rem;overflow-wrap:anywhere}
@media(max-width:40rem){body{font-size:15px}nav{margin-left:0}section{padding:.75rem;border-radius:8px}
table.stack thead{position:absolute;left:-99rem}
table.stack tr{display:block;border-bottom:1px solid var(--line);padding:.5rem 0}
table.stack tr:last-child{border-bottom:0}
table.stack tbody th{display:block;border:0;padding:.15rem 0;font-weight:600}
table.stack td{display:flex;justify-content:space-between;gap:1rem;border:0;padding:.15rem 0;text-align:right}
table.stack td::before{content:attr(data-label);color:var(--dim);text-align:left;flex:none}
table.stack td.wide{display:block;text-align:left}table.stack td.wide::before{display:none}
dl{grid-template-columns:1fr}dt{margin-top:.3rem}}
"""


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src {_digest(CSS)}; script-src {_digest(SCRIPT)}; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


def frame(
    title: str, about: str, *body: Part, refresh_s: int | None = None, live: bool = False, links: Part = None
) -> str:
    """A whole page, as text. `live` sections renew themselves by script, `refresh_s` loads the page anew without."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="refresh", content=str(refresh_s)) if refresh_s else None,
        tag("title", title),
        Html(f"<style>{CSS}</style>"),
    )
    header = tag(
        "header",
        tag("a", "skip to the content", class_="skip", href="#main"),
        tag("a", "parity", class_="home", href="/"),
        tag("span", about, class_="about"),
        tag("nav", links, aria_label="Views"),
    )
    inside = tag(
        "body",
        header,
        tag("main", *body, id="main", tabindex="-1"),
        Html(f"<script>{SCRIPT}</script>"),
        data_refresh=str(REFRESH_MS) if live else None,
    )
    page = tag("html", head, inside, lang="en")
    return f"<!doctype html>\n{page}\n"


def problem(status: int, told: str) -> str:
    """The page of an error."""
    said = tag("section", tag("h1", f"{status}"), tag("p", told), tag("p", tag("a", "to the overview", href="/")))
    return frame(f"{status} - parity", "", said)
