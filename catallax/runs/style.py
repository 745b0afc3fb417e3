"""The look of a report: system fonts, one column, light and dark."""

STYLE = """
:root {
  --paper: #fff; --ink: #1c1e21; --soft: #5b6168; --line: #dfe2e6; --shade: #f5f6f8;
  --good: #17692f; --good-shade: #e9f5ec; --bad: #a8201a; --bad-shade: #fcecea;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171a; --ink: #e6e8ea; --soft: #a3aab2; --line: #32383e; --shade: #1d2125;
    --good: #6fd08c; --good-shade: #16281c; --bad: #ff9a92; --bad-shade: #331a18;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
main { max-width: 54rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; overflow-wrap: break-word; }
h1 { margin: 0 0 1rem; font-size: clamp(1.5rem, 1.2rem + 1.8vw, 2.1rem); line-height: 1.2; font-weight: 650; }
h2 { margin: 0 0 .6rem; font-size: 1.2rem; line-height: 1.3; font-weight: 650; }
section { margin-top: 2.6rem; }
p { margin: .6rem 0; max-width: 42rem; }
.quiet { color: var(--soft); font-size: .9rem; }
.banner {
  display: flex; flex-wrap: wrap; gap: .1rem .8rem; align-items: baseline; max-width: none;
  margin: 0; padding: .7rem 1rem; border-radius: .4rem;
  border-left: .3rem solid var(--soft); background: var(--shade);
}
.banner.good { border-color: var(--good); background: var(--good-shade); }
.banner.bad { border-color: var(--bad); background: var(--bad-shade); }
.banner.good strong, td.good { color: var(--good); }
.banner.bad strong, td.bad { color: var(--bad); }
.summary { margin: 1rem 0 0; padding: 0; list-style: none; }
.summary li { padding: .12rem 0; white-space: pre-wrap; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; margin: .8rem 0; border: 1px solid var(--line); border-radius: .4rem; }
.tall { max-height: min(34rem, 75vh); overflow-y: auto; }
.tall thead th { position: sticky; top: 0; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { padding: .42rem .8rem; text-align: left; vertical-align: baseline; }
td { border-top: 1px solid var(--line); }
thead th {
  background: var(--shade); color: var(--soft); font-size: .82rem; font-weight: 600; white-space: nowrap;
}
tbody th { border-top: 1px solid var(--line); font-weight: 600; }
.meaning td { border: 0; padding-top: 0; color: var(--soft); font-size: .87rem; line-height: 1.4; }
.claims tr:not(.meaning) > * { padding-bottom: .2rem; }
.claims .meaning td { padding-bottom: .6rem; }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
td.good, td.bad { font-weight: 600; white-space: nowrap; }
figure {
  margin: .8rem 0; padding: .6rem; overflow-x: auto; border: 1px solid var(--line); border-radius: .4rem;
  background: #fff; color: #1c1e21;
}
figure svg { display: block; max-width: 100%; height: auto; margin: 0 auto; }
dl { margin: .8rem 0; }
dt { font-weight: 600; }
dd { margin: 0 0 .6rem; max-width: 42rem; }
details { border-top: 1px solid var(--line); padding-top: 1rem; }
details summary { cursor: pointer; color: var(--soft); }
.facts { font-size: .88rem; }
.facts dd { overflow-wrap: anywhere; color: var(--soft); max-width: none; }
footer { margin-top: 2.6rem; padding-top: 1rem; border-top: 1px solid var(--line); overflow-wrap: anywhere; }
:focus-visible { outline: 2px solid var(--soft); outline-offset: 2px; }
@media (min-width: 40rem) {
  .facts { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; }
  .facts dd { margin: 0; }
}
@media (max-width: 30rem) {
  main { padding: 1.5rem 1rem 3rem; }
  th, td { padding: .4rem .55rem; }
  table.claims { font-size: .86rem; }
  .claims th, .claims td { padding-left: .45rem; padding-right: .45rem; }
  td.good, td.bad { white-space: normal; }
}
@media print {
  main { max-width: none; padding: 0; }
  .scroll, figure { overflow: visible; max-height: none; }
}
"""
