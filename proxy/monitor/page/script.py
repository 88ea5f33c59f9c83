"""The one script of the pages, which they work without: keys for the reader's links, and a verdict that stays fresh.

It fetches the page that is shown and takes over the sections that changed, so the place on the page, what is focused,
selected or opened, stays. Nothing is fetched from anywhere else: the policy forbids it.
"""

from __future__ import annotations

REFRESH_MS = 10_000  # *choice*: what a person who watches an incident waits for

SCRIPT = """
(()=>{
const rel={j:'next',ArrowRight:'next',k:'prev',ArrowLeft:'prev',u:'up'};
addEventListener('keydown',e=>{
if(e.ctrlKey||e.metaKey||e.altKey||e.target.closest('input,select,textarea,.scroll,pre,.said'))return;
const a=rel[e.key]&&document.querySelector(`a[rel=${rel[e.key]}]`);
if(a){e.preventDefault();a.click()}});
const body=document.body,every=+body.dataset.refresh;
if(every)setInterval(async()=>{
if(document.hidden||!getSelection().isCollapsed)return;
try{const r=await fetch(location.href,{headers:{accept:'text/html'}});
if(!r.ok)throw r;
const d=new DOMParser().parseFromString(await r.text(),'text/html');
for(const s of document.querySelectorAll('[data-live]')){
const n=d.getElementById(s.id);
if(!n||s.contains(document.activeElement)||n.innerHTML===s.innerHTML)continue;
for(const o of s.querySelectorAll('details[id]')){const t=n.querySelector('#'+o.id);if(t)t.open=o.open}
s.className=n.className;s.replaceChildren(...n.childNodes)}
document.title=d.title;delete body.dataset.stale}
catch{body.dataset.stale='true'}},every)})()
"""
