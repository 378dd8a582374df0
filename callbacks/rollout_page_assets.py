"""Style and script of the pages of completions."""

STYLE = """
:root { --card: #f6f7f9; --right: #1a7f37; --wrong: #c4202c; --accent: #2f6fb0;
  --above: 224 122 30; --below: 58 118 200; }
@media (prefers-color-scheme: dark) { :root { --card: #1d2329; --right: #5cc878; --wrong: #ff7a82; --accent: #7db4ee;
  --above: 232 128 40; --below: 70 134 224; } }
* { box-sizing: border-box; }
body { max-width: 100rem; margin: 0 auto; padding: 1rem 1.5rem 4rem; }
a { color: var(--accent); }
nav { display: flex; gap: 1.2rem; font-size: 14px; } .absent { color: var(--muted); }
h1 { margin: .5rem 0; font-size: 1.5rem; }
h2 { margin: .1rem 0 .4rem; font-size: 1.05rem; white-space: pre-wrap; max-height: 16rem; overflow: auto; }
p { margin: .3rem 0; } .notes, .label, .key { color: var(--muted); font-size: 13px; }
dl { margin: 0; display: flex; flex-wrap: wrap; } dt { color: var(--muted); font-size: 12px; } dd { margin: 0; }
.headlines { gap: .4rem 2rem; } .headlines dd { font-size: 1.15rem; font-weight: 600; }
details { margin: .4rem 0; font-size: 13px; } summary { color: var(--accent); cursor: pointer; }
pre { white-space: pre-wrap; margin: .4rem 0; max-height: 20rem; overflow: auto;
  font: 12px/1.5 ui-monospace, monospace; }
table { border-collapse: collapse; font-size: 13px; } th { text-align: left; font-weight: normal; color: var(--muted); }
th, td { padding: .05rem .9rem .05rem 0; vertical-align: top; } td { white-space: nowrap; }
td { text-align: right; font-variant-numeric: tabular-nums; }
.controls { position: sticky; top: 0; z-index: 2; background: var(--paper); padding: .6rem 0; margin: .6rem 0;
  border-block: 1px solid var(--line); display: flex; flex-wrap: wrap; gap: .4rem .9rem; align-items: center;
  font-size: 14px; }
select, input { font: inherit; color: inherit; background: var(--card); border: 1px solid var(--line);
  border-radius: 5px; padding: .15rem .3rem; } input { width: 3.8rem; } select { max-width: 8.2rem; }
output { color: var(--muted); }
.legend { display: flex; gap: .5rem; align-items: center; font-size: 13px; flex-basis: 100%; flex-wrap: wrap; }
#meaning { color: var(--muted); margin-left: .6rem; }
#bar { width: 11rem; height: .8rem; border-radius: 3px; border: 1px solid var(--line);
  background: linear-gradient(to right, transparent, rgb(var(--above) / .78)); }
#bar.signed { background: linear-gradient(to right, rgb(var(--below) / .78), transparent, rgb(var(--above) / .78)); }
.prompt { padding: 1.2rem 0; border-bottom: 1px solid var(--line); }
.question { display: flex; gap: 1.2rem; margin-bottom: .9rem; } .question > div:last-child { min-width: 0; }
.pictures { display: flex; flex-wrap: wrap; gap: .4rem; align-content: flex-start; max-width: 300px; flex-shrink: 0; }
.pictures:empty { display: none; }
.pictures img { width: 144px; height: 144px; object-fit: contain; image-rendering: pixelated; background: var(--card);
  border: 1px solid var(--line); border-radius: 6px; }
.answer b { font-family: ui-monospace, monospace; padding: .05rem .4rem; background: var(--card); border-radius: 4px; }
.completions { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); gap: .8rem; }
.completion { background: var(--card); border: 1px solid var(--line); border-left: 4px solid var(--muted);
  border-radius: 6px; padding: .6rem .8rem; min-width: 0; display: flex; flex-direction: column; gap: .45rem; }
.completion.right { border-left-color: var(--right); } .completion.wrong { border-left-color: var(--wrong); }
[hidden] { display: none !important; }
.head { display: flex; flex-wrap: wrap; align-items: baseline; gap: .6rem; }
.reward { font-size: 1.25rem; font-weight: 700; font-variant-numeric: tabular-nums; }
.badge { font-size: 12px; color: var(--muted); } .badge.right { color: var(--right); } p.wrong { color: var(--wrong); }
.badge.wrong { color: var(--wrong); }
.badge.cut { border: 1px solid currentColor; border-radius: 4px; padding: 0 .3rem; }
.head .number { margin-left: auto; color: var(--muted); font-size: 12px; }
.facts { gap: .2rem 1.4rem; font-size: 14px; } .facts > div { min-width: 0; max-height: 6rem; overflow: auto; }
.tokens { font: 13px/1.75 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; max-height: 26rem;
  overflow: auto; border-block: 1px solid var(--line); padding: .35rem 0; }
.tokens i { font-style: normal; unicode-bidi: isolate; border-radius: 3px; padding: .12em 0;
  --strength: 0; background: rgb(var(--above) / calc(var(--strength) * .78)); }
.tokens i.below { background: rgb(var(--below) / calc(var(--strength) * .78)); }
.tokens i:hover { outline: 1px solid var(--ink); } .silent { color: var(--muted); }
.parts, .parts th { width: 100%; } .parts td:last-child { padding-right: 0; }
.detail { font-size: 12px; color: var(--muted); }
.detail th { padding-left: .8rem; }
#tip { position: fixed; z-index: 3; pointer-events: none; max-width: 20rem; background: var(--ink); color: var(--paper);
  border-radius: 6px; padding: .4rem .6rem; font-size: 12px; white-space: pre-wrap; overflow-wrap: anywhere;
  font-variant-numeric: tabular-nums; }
.empty, #nothing { margin: 3rem 0; color: var(--muted); font-size: 1.1rem; }
@media (max-width: 40rem) { .question { flex-direction: column; } .controls { position: static; } }
"""

INDEX_STYLE = """
body { max-width: 60rem; margin: 0 auto; padding: 1rem 1.5rem 4rem; }
table { border-collapse: collapse; width: 100%; } p { color: var(--muted); font-size: 13px; }
th, td { text-align: right; padding: .3rem .6rem; border-bottom: 1px solid var(--line);
  font-variant-numeric: tabular-nums; }
th { color: var(--muted); font-weight: normal; } th:first-child, td:first-child { text-align: left; }
a { color: #2f6fb0; } @media (prefers-color-scheme: dark) { a { color: #7db4ee; } }
"""

# Numbers come as JSON from an element that runs nothing; text is only ever read from the page or set as text.
SCRIPT = """
"use strict";
(() => {
  const byId = (name) => document.getElementById(name);
  if (!byId("colour")) return;
  const { scales, completions } = JSON.parse(byId("numbers").textContent);
  const cards = [...document.querySelectorAll(".completion")];
  const sections = [...document.querySelectorAll(".prompt")];
  const tokens = cards.map((card) => [...card.querySelectorAll(".tokens > i")]);
  const choices = ["colour", "sort", "prompts", "show", "least", "most"].map(byId);
  const format = (number) => {
    if (number === null || number === undefined) return "unknown";
    const tiny = number !== 0 && Math.abs(number) < 1e-3;
    return (tiny ? number.toExponential(1) : String(Number(number.toPrecision(3)))).replaceAll("-", "\\u2212");
  };

  function colour() {
    const name = byId("colour").value, scale = scales[name];
    cards.forEach((_, row) => {
      const numbers = scale ? completions[row][name] : undefined;
      tokens[row].forEach((token, place) => {
        const number = numbers?.[place] ?? 0;
        token.style.setProperty("--strength", scale ? Math.min(1, Math.abs(number) / scale.bound).toFixed(3) : "0");
        token.classList.toggle("below", number < 0);
      });
    });
    byId("legend").hidden = !scale;
    if (!scale) return;
    byId("bar").classList.toggle("signed", scale.signed);
    byId("low").textContent = format(scale.signed ? -scale.bound : 0);
    byId("high").textContent = format(scale.bound);
    byId("meaning").textContent = `${scale.meaning}; all tokens lie from ${format(scale.lowest)} to `
      + `${format(scale.highest)}, 98 % within the scale`;
  }

  // What has no number comes last, whichever way round.
  function arrange(items, choice) {
    const [key, way] = choice.split("-"), sign = way === "down" ? -1 : 1;
    const value = (item) => item.dataset[key] === "" ? null : Number(item.dataset[key]);
    const ordered = [...items].sort((one, other) => {
      const a = value(one), b = value(other);
      if (a === null || b === null) return (a === null) - (b === null) || one.dataset.index - other.dataset.index;
      return sign * (a - b) || one.dataset.index - other.dataset.index;
    });
    ordered.forEach((item) => item.parentNode.append(item));
  }

  function sort() {
    for (const section of sections) arrange(section.querySelectorAll(".completion"), byId("sort").value);
    arrange(sections, byId("prompts").value);
    document.body.append(byId("nothing"));
  }

  function filter() {
    const show = byId("show").value, least = byId("least").value, most = byId("most").value;
    let shown = 0;
    for (const card of cards) {
      const { reward, verdict, truncated } = card.dataset;
      const kind = !show || verdict === show || (show === "truncated" && truncated === "1");
      const within = (least === "" || Number(reward) >= least) && (most === "" || Number(reward) <= most);
      const scored = reward === "" ? least === "" && most === "" : within;
      card.hidden = !(kind && scored);
      shown += !card.hidden;
    }
    for (const section of sections) section.hidden = !section.querySelector(".completion:not([hidden])");
    byId("nothing").hidden = shown > 0;
    byId("count").textContent = `${shown} of ${cards.length} completions`;
  }

  // The choices stand behind the # of the address, so that they go along to the previous and the next page.
  function remember() {
    const chosen = new URLSearchParams(choices.map((choice) => [choice.id, choice.value]));
    history.replaceState(null, "", `#${chosen}`);
    for (const name of ["previous", "next"]) if (byId(name)?.href) byId(name).hash = String(chosen);
  }

  function recall() {
    const chosen = new URLSearchParams(location.hash.slice(1));
    for (const choice of choices) {
      const value = chosen.get(choice.id);
      const known = choice.options ? [...choice.options].some((option) => option.value === value) : value !== null;
      if (known) choice.value = value;
    }
  }

  function tell(event) {
    const tip = byId("tip"), token = event.target.closest?.(".tokens > i");
    tip.hidden = !token;
    if (!token) return;
    const row = cards.indexOf(token.closest(".completion")), place = tokens[row].indexOf(token);
    const shown = token.textContent.length > 80 ? `${token.textContent.slice(0, 80)}\\u2026` : token.textContent;
    const lines = [`\\u201c${shown}\\u201d`, `token ${place + 1}, id ${completions[row].ids[place]}`];
    for (const [name, numbers] of Object.entries(completions[row])) {
      if (name === "ids") continue;
      const label = scales[name]?.label ?? (name === "log_prob" ? "log-probability when sampled" : name);
      lines.push(`${label}: ${format(numbers[place])}`);
    }
    tip.textContent = lines.join("\\n");
    const box = token.getClientRects()[0], size = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(box.left, innerWidth - size.width - 4))}px`;
    const below = box.bottom + 6, above = Math.max(4, box.top - size.height - 6);
    tip.style.top = `${below + size.height < innerHeight ? below : above}px`;
  }

  recall();
  colour();
  sort();
  filter();
  byId("colour").addEventListener("change", () => { colour(); remember(); });
  for (const name of ["sort", "prompts"]) byId(name).addEventListener("change", () => { sort(); remember(); });
  for (const name of ["show", "least", "most"]) byId(name).addEventListener("input", () => { filter(); remember(); });
  addEventListener("pointerover", tell);
  addEventListener("scroll", () => { byId("tip").hidden = true; }, true);
})();
"""
