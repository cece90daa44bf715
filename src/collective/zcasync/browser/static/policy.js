// The preview of a retry policy follows what is typed into its form.
(() => {
  "use strict";
  const form = document.querySelector("form:has([name='form.widgets.first_wait'])");
  const box = document.querySelector("[data-zcasync-preview]");
  if (!form || !box) return;
  let timer, turn = 0;
  form.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(async () => {
      const mine = ++turn, query = new URLSearchParams();
      for (const [name, value] of new FormData(form))
        if (name.startsWith("form.widgets.") && typeof value === "string") query.append(name, value);
      try {
        const answer = await fetch(box.dataset.zcasyncPreview + "?" + query);
        const text = await answer.text();
        const fresh = new DOMParser().parseFromString(text, "text/html").getElementById("zcasync-preview");
        if (answer.ok && fresh && mine === turn) document.getElementById("zcasync-preview").replaceWith(fresh);
      } catch (error) { /* the server is away: the next change tries again */ }
    }, 300);
  });
})();
