// My jobs: tells in the toolbar when something has ended, unless it was seen on the page.
(() => {
  "use strict";
  if (window.zcasyncMyJobs) return; // the page and the toolbar both ask for this file
  window.zcasyncMyJobs = true;

  const SEEN = "zcasync-seen", NEXT = "zcasync-next";
  const BUSY_EVERY = 10000, IDLE_EVERY = 120000;
  const note = document.getElementById("zcasync-note");
  const page = () => document.querySelector("[data-zcasync-seen]");

  const store = (where, key, value) => {
    try {
      if (value === undefined) return where.getItem(key) || "";
      where.setItem(key, value);
    } catch (error) { /* no storage: the note then also tells of what was seen */ }
    return "";
  };
  const seen = () => store(localStorage, SEEN).split(" ").filter(Boolean);
  const see = (ids) => store(localStorage, SEEN, [...new Set([...seen(), ...ids])].slice(-200).join(" "));

  const look = async () => {
    if (document.hidden) return setTimeout(look, BUSY_EVERY);
    const wait = Number(store(sessionStorage, NEXT)) - Date.now();
    if (wait > 0 && wait <= IDLE_EVERY) return setTimeout(look, wait);
    let every = IDLE_EVERY;
    try {
      const answer = await fetch(note.dataset.zcasyncNews, { headers: { Accept: "application/json" } });
      if (answer.ok) {
        const news = await answer.json();
        const known = new Set(seen());
        const fresh = news.ended.filter((id) => !known.has(id));
        note.hidden = !fresh.length;
        note.querySelector("[data-zcasync-number]").textContent = fresh.length;
        if (news.active) every = BUSY_EVERY;
        if (fresh.length) every = 0; // the next page has to tell it again
      }
    } catch (error) { /* the server is away: later */ }
    store(sessionStorage, NEXT, Date.now() + every);
    setTimeout(look, every || BUSY_EVERY);
  };

  const seePage = () => see(page().dataset.zcasyncSeen.split(" ").filter(Boolean));
  if (page()) {
    seePage();
    document.addEventListener("zcasync-refreshed", seePage);
    store(sessionStorage, NEXT, 0);
  }
  if (note) look();
})();
