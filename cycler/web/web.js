// Keeps a page up to date: asks for the version of what it shows, and fetches the page again when that has changed.
"use strict";
(() => {
  const EVERY = 3000; // ms
  const live = () => document.getElementById("live");
  const said = document.getElementById("said");
  const parse = (text) => new DOMParser().parseFromString(text, "text/html");
  const clock = () => new Date().toISOString().slice(11, 19) + " UTC";
  let failures = 0;

  function say(text, lost) {
    said.classList.toggle("lost", Boolean(lost));
    if (said.textContent !== text) said.textContent = text;
  }

  // Puts the new content in place, and keeps the focus and the places that tables were scrolled to.
  function replace(fresh) {
    const old = live();
    const focused = old.contains(document.activeElement) ? document.activeElement : null;
    const key = focused && (focused.id ? ["id", focused.id] : ["href", focused.getAttribute("href")]);
    const known = new Set([...old.querySelectorAll("[id]")].map((element) => element.id));
    const scrolled = [...old.querySelectorAll(".scroll")].map((region) => region.scrollLeft);
    old.replaceWith(fresh);
    [...fresh.querySelectorAll(".scroll")].forEach((region, i) => { region.scrollLeft = scrolled[i] || 0; });
    fresh.querySelectorAll("[id^='cycle-']").forEach((cell) => { if (!known.has(cell.id)) cell.classList.add("new"); });
    rove();
    const again = key && key[1] && fresh.querySelector(`[${key[0]}="${CSS.escape(key[1])}"]`);
    if (again) again.focus({ preventScroll: true });
  }

  async function look() {
    const here = live();
    try {
      const answer = await fetch(here.dataset.watch, { cache: "no-store" });
      if (!answer.ok) throw new Error(String(answer.status));
      const { version, text } = await answer.json();
      if (version !== here.dataset.version) {
        const page = await fetch(location.href, { cache: "no-cache" });
        if (page.ok) {
          const other = parse(await page.text());
          document.title = other.title;
          replace(other.getElementById("live"));
          say(`${text}; changed at ${clock()}`);
        }
      } else if (failures || !said.textContent) {
        say(text);
      }
      failures = 0;
    } catch {
      failures += 1;
      if (failures > 1) say("No answer from dacycle web: this page may be old", true);
    }
    setTimeout(look, EVERY * Math.min(1 + failures, 10));
  }

  // One stop of the Tab key in the timeline; arrow keys go on from there.
  function rove() {
    const cells = [...document.querySelectorAll(".calendar a")];
    cells.forEach((cell) => { cell.tabIndex = -1; });
    const newest = cells.map((cell) => cell.id).sort().at(-1);
    if (newest) document.getElementById(newest).tabIndex = 0;
  }

  document.addEventListener("keydown", (event) => {
    const cell = document.activeElement;
    const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!steps || !cell || !cell.matches(".calendar a")) return;
    const column = cell.closest("td").cellIndex + steps[1];
    const rows = [...cell.closest("tbody").rows];
    const row = rows[rows.indexOf(cell.closest("tr")) + steps[0]];
    const next = row && row.cells[column] && row.cells[column].querySelector("a");
    if (!next) return;
    event.preventDefault();
    cell.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });

  rove();
  const newest = document.querySelector(".calendar a[tabindex='0']");
  if (newest) {
    const days = newest.closest(".scroll");
    days.scrollLeft = newest.closest("td").offsetLeft - days.clientWidth + 80;
  }
  if (live().dataset.watch) look();
})();
