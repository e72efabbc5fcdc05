"use strict";
(() => {
  const by = (id) => document.getElementById(id);
  const number = new Intl.NumberFormat("en");
  const root = document.documentElement;
  const units = ["B", "kB", "MB", "GB", "TB"];
  let next = null;
  let known = "";

  const bytes = (count) => {
    let unit = 0;
    while (count >= 1000 && unit < units.length - 1) { count /= 1000; unit += 1; }
    return `${unit ? count.toFixed(1) : count} ${units[unit]}`;
  };

  const ask = async (path) => {
    const answer = await fetch(path);
    if (!answer.ok) throw new Error(await answer.text());
    return answer.json();
  };

  // Text only ever becomes text: nothing that a dataset says is parsed as HTML.
  const element = (tag, className, text) => {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };

  const image = (row, small) => {
    const [shard, index] = row.at.split(":");
    const made = element("img");
    made.alt = row.caption ?? "";
    made.src = `/picture/${shard}/${index}${small ? "?small" : ""}`;
    return made;
  };

  const card = (row) => {
    const made = element("button", "row");
    made.type = "button";
    made.append(row.outcome === "success" ? image(row, true) : element("span", "none", row.outcome));
    made.append(element("span", "cut", row.caption || row.detail || row.error_message || row.url || "–"));
    const size = row.original_width ? `${row.original_width} × ${row.original_height}` : (row.url ?? "");
    made.append(element("span", "cut note", `${row.key} · ${size}`));
    made.addEventListener("click", () => show(row));
    return made;
  };

  const show = (row) => {
    by("picture").replaceChildren(...(row.outcome === "success" ? [image(row, false)] : []));
    by("values").replaceChildren(...Object.entries(row).filter(([key, value]) => key !== "at" && value !== null)
      .map(([key, value]) => {
        const line = element("tr");
        line.append(element("td", "", key), element("td", "", typeof value === "object" ? JSON.stringify(value) : String(value)));
        return line;
      }));
    by("detail").showModal();
  };

  const load = async (from) => {
    by("status").textContent = "searching …";
    const asked = new URLSearchParams(new FormData(by("filter")));
    if (from) asked.set("from", from);
    try {
      const page = await ask(`/api/rows?${asked}`);
      next = page.next;
      by("grid").replaceChildren(...page.rows.map(card));
      by("status").textContent = `${number.format(page.rows.length)} shown${next ? "" : ", to the end"}`;
      by("next").disabled = !next;
      scrollTo(0, 0);
    } catch (error) {
      by("status").textContent = error.message;
    }
  };

  const describe = async () => {
    const dataset = await ask("/api/dataset");
    by("name").textContent = dataset.path.split("/").filter(Boolean).pop() ?? dataset.path;
    by("facts").textContent = `${dataset.path} · ${dataset.format ?? "no shard yet"} · ` +
      `${number.format(dataset.rows)} rows in ${number.format(dataset.shards)} shards`;
    const state = JSON.stringify(dataset);
    if (state === known) return;
    const first = known === "";
    known = state;
    const select = by("filter").elements.outcome;
    const chosen = select.value;
    const choices = [["", "all outcomes"], ["failed", "all failures"],
      ...Object.entries(dataset.outcomes).map(([name, count]) => [name, `${name} (${number.format(count)})`])];
    select.replaceChildren(...choices.map(([value, text]) => {
      const option = element("option", "", text);
      option.value = value;
      return option;
    }));
    select.value = chosen;
    if (first || !by("grid").childElementCount) await load(null);
  };

  const follow = async () => {
    const live = await ask("/api/live");
    const last = live.progress.at(-1);
    by("live").hidden = !live.running || !last;
    if (live.running && last) {
      const share = last.rows_total ? last.rows_done / last.rows_total : 0;
      by("live-state").textContent = "A run is in progress";
      const failed = Object.entries(last.outcomes).filter(([name]) => name !== "success")
        .map(([name, count]) => `${name} ${number.format(count)}`).join(", ");
      by("live-facts").textContent = `${number.format(last.rows_done)} of ` +
        `${last.rows_total ? number.format(last.rows_total) : "?"} rows · ${number.format(Math.round(last.rows_per_s))} rows/s · ` +
        `${bytes(last.bytes_per_s)}/s · ${number.format(last.in_flight)} in flight · ${bytes(last.memory_bytes)}` +
        (failed ? ` · ${failed}` : "");
      by("live-bar").value = share;
      const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();
      Plotly.react("live-plot", [{
        x: live.progress.map((line) => line.elapsed_s), y: live.progress.map((line) => line.rows_per_s),
        type: "scatter", mode: "lines", line: { color: colour("--good"), width: 2 }, hovertemplate: "%{y:,.0f} rows/s<extra></extra>",
      }], {
        margin: { l: 48, r: 12, t: 8, b: 28 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
        font: { color: colour("--text"), size: 11 },
        xaxis: { gridcolor: colour("--line"), title: { text: "" }, ticksuffix: " s" },
        yaxis: { gridcolor: colour("--line"), rangemode: "tozero", title: { text: "rows/s" } },
      }, { displayModeBar: false, responsive: true });
      await describe();
    }
    setTimeout(() => follow().catch(() => setTimeout(follow, 5000)), live.running ? 1000 : 3000);
  };

  root.dataset.theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  by("theme").addEventListener("click", () => {
    root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
  });
  by("filter").addEventListener("submit", (event) => { event.preventDefault(); load(null); });
  by("filter").elements.outcome.addEventListener("change", () => load(null));
  by("first").addEventListener("click", () => load(null));
  by("next").addEventListener("click", () => load(next));
  by("close").addEventListener("click", () => by("detail").close());
  describe().then(follow).catch((error) => { by("status").textContent = error.message; });
})();
