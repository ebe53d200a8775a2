"""The style sheet and the script of the page that minillm.observe.page writes."""

STYLE = """
:root {
  color-scheme: light dark;
  --ground: #fcfcfa; --text: #1d2733; --soft: #5b6875; --line: #dde2e6; --box: #f2f4f5;
  --accent: #2563eb; --hot: #d9480f;
  --forward: #2563eb; --backward: #7048c6; --data: #2b8a3e; --clip: #b08900;
  --optimizer: #d9480f; --sample: #b08900; --python: #8894a0; --other: #8894a0;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #14181d; --text: #e3e8ed; --soft: #9aa7b4; --line: #323b45; --box: #1d232a;
    --accent: #6ea0ff; --hot: #ff9560;
    --forward: #6ea0ff; --backward: #b197fc; --data: #69c97c; --clip: #e0c15a;
    --optimizer: #ff9560; --sample: #e0c15a; --python: #75818d; --other: #75818d;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 76rem; padding: 1.5rem clamp(1rem, 3vw, 2.5rem) 4rem;
  background: var(--ground); color: var(--text);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", "Noto Sans", sans-serif;
}
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .6rem; padding-top: .9rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.6rem 0 .4rem; }
p { max-width: 44rem; margin: .5rem 0; }
.soft, figcaption { color: var(--soft); font-size: .9rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.6rem, 1fr)); gap: .7rem;
  margin: 1.2rem 0; }
.card { background: var(--box); border-radius: .5rem; padding: .6rem .8rem; }
.card b { display: block; font-size: 1.35rem; line-height: 1.3;
  font-variant-numeric: tabular-nums; }
.card span { color: var(--soft); font-size: .85rem; }
.reading { border-left: 3px solid var(--hot); padding-left: 1rem; }
.scroll { overflow: auto; margin: .6rem 0; border: 1px solid var(--line); border-radius: .5rem; }
.scroll:has(table) { max-height: 34rem; }
table { border-collapse: collapse; width: 100%; font-size: .86rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .32rem .55rem; text-align: right; white-space: nowrap; }
th { background: var(--box); font-weight: 600; position: sticky; top: 0; }
th button { all: unset; cursor: pointer; }
th button:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
th[aria-sort=descending] button::after { content: " \\2193"; }
th[aria-sort=ascending] button::after { content: " \\2191"; }
td { border-top: 1px solid var(--line); }
th.word, td.word { text-align: left; }
figure { margin: .6rem 0; }
figure svg { display: block; width: 100%; min-width: 44rem; height: auto; }
figure svg.key { display: inline-block; width: .7em; min-width: 0; margin-left: .6em; }
svg text { font: 12px system-ui, sans-serif; fill: var(--text); }
svg .tick { font-size: 11px; fill: var(--soft); }
svg rect { stroke: var(--ground); stroke-width: .3; }
svg .grid { stroke: var(--line); }
svg .roof { stroke: var(--soft); stroke-width: 2; }
svg .leader { stroke: var(--soft); }
svg .point { fill: var(--accent); fill-opacity: .55; stroke: var(--accent); }
svg .live { fill: var(--accent); fill-opacity: .35; }
svg .high { fill: none; stroke: var(--hot); stroke-width: 1.5; }
svg .forward { fill: var(--forward); } svg .backward { fill: var(--backward); }
svg .data { fill: var(--data); } svg .clip { fill: var(--clip); }
svg .optimizer { fill: var(--optimizer); } svg .sample { fill: var(--sample); }
svg .inside { fill: var(--ground); }
svg .python, svg .other { fill: var(--python); }
.bar { display: flex; height: 2.1rem; border-radius: .4rem; overflow: hidden;
  margin: 1rem 0 .3rem; }
.bar i { display: block; min-width: 1px; border-right: 1px solid var(--ground);
  font: normal .8rem/2.1rem system-ui, sans-serif; color: var(--ground); overflow: hidden;
  white-space: nowrap; padding-left: .35rem; background: var(--accent); }
.bar i.own, .bar i.rest { background: var(--python); padding-left: 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; max-width: 48rem;
  font-size: .92rem; }
dt { font-weight: 600; } dd { margin: 0; }
"""

SCRIPT = """
for (const table of document.querySelectorAll("table.sorts")) {
  const heads = [...table.tHead.rows[0].cells];
  const key = (row, column) => {
    const value = row.cells[column].dataset.value ?? row.cells[column].textContent;
    return value === "" ? -Infinity : isNaN(value) ? value : +value;
  };
  const order = (a, b) => typeof a === "number" && typeof b === "number"
    ? a - b : String(a).localeCompare(String(b));
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") === "descending";
    const rows = [...table.tBodies[0].rows].sort(
      (a, b) => order(key(a, column), key(b, column)) * (up ? 1 : -1));
    table.tBodies[0].append(...rows);
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
  }));
}
"""
