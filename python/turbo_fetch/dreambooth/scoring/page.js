"use strict";
(() => {
  const chosen = document.getElementById("model");
  const show = () => {
    for (const gallery of document.querySelectorAll("[data-model]")) {
      gallery.hidden = gallery.dataset.model !== chosen.value;
    }
  };
  chosen.addEventListener("change", show);
  show();
})();
