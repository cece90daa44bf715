// Keeps parts of a page fresh: elements with an id and data-zcasync-refresh="seconds", until the server sends such a part
// without that. Asks for this page again, or for data-zcasync-from. Rests while the tab is hidden, and while somebody
// selects text, has the focus or has filled in something in such a part. Only what differs is replaced: what was opened
// or scrolled stays so, and screen readers tell what is new and nothing else.
(() => {
  "use strict";
  const PARTS = "[id][data-zcasync-refresh]";
  const parts = () => [...document.querySelectorAll(PARTS)];
  const filledIn = (field) =>
    ["checkbox", "radio"].includes(field.type) ? field.checked !== field.defaultChecked
    : field.type !== "hidden" && field.value !== field.defaultValue;
  const busy = (part) => {
    const selection = getSelection();
    return part.contains(document.activeElement) || (!selection.isCollapsed && selection.containsNode(part, true))
      || [...part.querySelectorAll("input, textarea")].some(filledIn);
  };
  const replace = (old, fresh) => {
    for (const details of old.querySelectorAll?.("details[id][open]") ?? []) {
      const same = fresh.querySelector?.("#" + CSS.escape(details.id));
      if (same) same.open = true;
    }
    old.replaceWith(fresh);
  };
  const follow = (old, fresh) => {
    const children = [...fresh.childNodes];
    if (old.nodeName !== fresh.nodeName || old.childNodes.length !== children.length) return replace(old, fresh);
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.data !== fresh.data) old.data = fresh.data;
      return;
    }
    for (const { name, value } of fresh.attributes)
      if (name !== "open" && old.getAttribute(name) !== value) old.setAttribute(name, value);
    for (const { name } of [...old.attributes])
      if (name !== "open" && !fresh.hasAttribute(name)) old.removeAttribute(name);
    [...old.childNodes].forEach((child, place) => follow(child, children[place]));
  };
  const refresh = async () => {
    const wanted = parts().filter((part) => !busy(part));
    if (document.hidden || !wanted.length) return;
    try {
      const answer = await fetch(wanted[0].dataset.zcasyncFrom || location.href);
      if (!answer.ok) return;
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const old of parts()) {
        const fresh = page.getElementById(old.id);
        if (fresh && !busy(old)) follow(old, fresh);
      }
      document.dispatchEvent(new Event("zcasync-refreshed"));
    } catch (error) { /* the server is away: the next round tries again */ }
  };
  const pause = () => Math.min(...parts().map((part) => Number(part.dataset.zcasyncRefresh) || 10)) * 1000;
  const go = () => parts().length && setTimeout(() => refresh().finally(go), pause());
  document.addEventListener("visibilitychange", refresh); // at once for who comes back
  go();
})();
