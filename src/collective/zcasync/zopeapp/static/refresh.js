// Keeps parts of a page fresh: elements with an id and data-zcasync-refresh="seconds". Rests while the tab is hidden,
// or while somebody selects text, types or opens something in such a part.
(() => {
  "use strict";
  const PARTS = "[data-zcasync-refresh]";
  const parts = () => [...document.querySelectorAll(PARTS)].filter((part) => part.id);
  const busy = (part) => {
    const selection = getSelection();
    return part.contains(document.activeElement) || (!selection.isCollapsed && selection.containsNode(part, true));
  };
  const swap = (old, fresh) => {
    for (const details of old.querySelectorAll("details[id][open]")) {
      const same = fresh.querySelector("#" + CSS.escape(details.id));
      if (same) same.open = true;
    }
    old.replaceWith(fresh);
  };
  const refresh = async () => {
    if (document.hidden || !parts().some((part) => !busy(part))) return;
    try {
      const answer = await fetch(location.href);
      if (!answer.ok) return;
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const old of parts()) {
        const fresh = page.getElementById(old.id);
        if (fresh && !busy(old)) swap(old, fresh);
      }
    } catch (error) { /* the server is away: the next round tries again */ }
  };
  const pause = () => Math.min(...parts().map((part) => Number(part.dataset.zcasyncRefresh) || 10)) * 1000;
  const go = () => parts().length && setTimeout(() => refresh().finally(go), pause());
  document.addEventListener("visibilitychange", refresh); // at once for who comes back
  go();
})();
