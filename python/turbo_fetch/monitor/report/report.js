"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;

  const colour = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();

  // Colours of figures are names of the palette: "@good" becomes what --good is in this theme.
  const coloured = (value) => {
    if (typeof value === "string") return /^@[a-z-]+$/.test(value) ? colour(value.slice(1)) : value;
    if (Array.isArray(value)) return value.map(coloured);
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, inner]) =>
        [key, ["marker", "line", "fillcolor", "color"].includes(key) ? coloured(inner) : inner]));
    }
    return value;
  };

  const axis = (given) => ({
    gridcolor: colour("line"), zerolinecolor: colour("line"), linecolor: colour("line"), automargin: true,
    separatethousands: true, ...given,
  });

  const layout = (given) => {
    const whole = {
      margin: { l: 56, r: 20, t: 24, b: 44 },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: colour("text"), family: "system-ui, Liberation Sans, sans-serif", size: 12 },
      hoverlabel: { bgcolor: colour("box"), font: { color: colour("text") } },
      colorway: ["accent", "good", "bad", "muted"].map(colour),
      // Those that a figure says nothing of are drawn too.
      xaxis: {}, yaxis: {}, ...given,
    };
    for (const name of Object.keys(whole)) if (/^[xy]axis/.test(name)) whole[name] = axis(whole[name]);
    return whole;
  };

  const draw = () => {
    root.dataset.theme = chosen ?? (dark.matches ? "dark" : "light");
    for (const figure of figures) {
      Plotly.react(`plot-${figure.id}`, figure.data.map(coloured), layout(figure.layout),
        { displaylogo: false, responsive: true, displayModeBar: false });
    }
  };

  document.getElementById("theme").addEventListener("click", () => {
    chosen = root.dataset.theme === "dark" ? "light" : "dark";
    draw();
  });
  dark.addEventListener("change", draw);
  draw();
})();
