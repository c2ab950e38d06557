"use strict";
// Draws the figures of the page; colours are names in the figures and are resolved here for light and dark.
(() => {
  const PALETTES = {
    light: {
      ink: "#16191d", muted: "#6b7480", axis: "#9aa3ae", grid: "#e8ebef", panel: "#ffffff",
      mean: "#1a56db", seed: "#8fb0f3", buy_and_hold: "#c2660c", moving_average: "#0f8a7e", follow_classifier: "#a3319f",
      flat: "#7a8491", random: "#a7b0bb", bad: "#c0392f",
      good_soft: "rgba(18,116,59,0.14)", bad_soft: "rgba(192,57,47,0.26)", good: "#12743b",
      mean_soft: "rgba(26,86,219,0.16)", buy_and_hold_soft: "rgba(194,102,12,0.10)",
      action_hold: "#c9cfd7", action_buy_1: "#a8c4fa", action_buy_2: "#6594f0", action_buy_3: "#1a56db",
      action_sell_1: "#f6cfa4", action_sell_2: "#e69a4c", action_sell_3: "#c2660c",
      action_close: "#59626d", action_reverse: "#a3319f",
    },
    dark: {
      ink: "#e8ebef", muted: "#9ba6b3", axis: "#6b7683", grid: "#262c35", panel: "#161a20",
      mean: "#7fb0ff", seed: "#4d6f9f", buy_and_hold: "#f0a350", moving_average: "#45c4b5", follow_classifier: "#e08fdc",
      flat: "#8e99a6", random: "#7d8896", bad: "#ff8a80",
      good_soft: "rgba(111,220,152,0.16)", bad_soft: "rgba(255,138,128,0.30)", good: "#6fdc98",
      mean_soft: "rgba(127,176,255,0.20)", buy_and_hold_soft: "rgba(240,163,80,0.13)",
      action_hold: "#4a5461", action_buy_1: "#35568f", action_buy_2: "#5584d6", action_buy_3: "#8fbaff",
      action_sell_1: "#7a5426", action_sell_2: "#bd7f38", action_sell_3: "#f0a350",
      action_close: "#9ba6b3", action_reverse: "#e08fdc",
    },
  };
  const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif';
  const root = document.documentElement;
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  const coarse = matchMedia("(pointer: coarse)").matches;
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const synthetic = document.body.classList.contains("synthetic");

  const theme = () => root.dataset.theme || (prefersDark.matches ? "dark" : "light");

  function coloured(value, palette) {
    if (typeof value === "string") return value.startsWith("@") && palette[value.slice(1)] || value;
    if (Array.isArray(value)) {
      return value.some((item) => typeof item !== "number") ? value.map((item) => coloured(item, palette)) : value;
    }
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, coloured(item, palette)]));
    }
    return value;
  }

  function themed(figure, palette, narrow) {
    const axis = {
      gridcolor: palette.grid, zerolinecolor: palette.axis, linecolor: palette.axis, zeroline: false,
      tickfont: { size: narrow ? 11 : 12 }, automargin: true, title: { font: { size: 12, color: palette.muted } },
    };
    const own = coloured(figure.layout, palette);
    const layout = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true,
      font: { family: FONT, size: 12, color: palette.muted },
      hovermode: "x unified", hoverlabel: { bgcolor: palette.panel, bordercolor: palette.axis, font: { color: palette.ink } },
      dragmode: coarse ? false : "zoom",
      xaxis: {}, yaxis: {}, ...own,
      legend: { orientation: "h", x: 0, xanchor: "left", y: 1.02, yanchor: "bottom", font: { size: 12 }, ...own.legend },
      margin: { l: 8, r: 8, t: 8, b: 8, ...own.margin },
    };
    for (const key of Object.keys(layout).filter((name) => /^[xy]axis\d*$/.test(name))) {
      layout[key] = { ...axis, ...layout[key], title: { ...axis.title, ...layout[key].title } };
    }
    if (synthetic) {
      layout.annotations = [...(own.annotations || []), {
        text: "SYNTHETIC", xref: "paper", yref: "paper", x: 1, y: 1, xanchor: "right", yanchor: "top",
        showarrow: false, font: { size: 11, color: palette.buy_and_hold }, opacity: 0.9,
      }];
    }
    return { data: coloured(figure.data, palette), layout };
  }

  async function draw() {
    const palette = PALETTES[theme()];
    const narrow = innerWidth < 640;
    for (const figure of figures) {
      const { data, layout } = themed(figure, palette, narrow);
      const config = { responsive: true, displaylogo: false, displayModeBar: coarse ? false : "hover",
        modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };
      await Plotly.react(figure.id, data, layout, config);
      await new Promise((resolve) => setTimeout(resolve));
    }
    root.dataset.drawn = theme();
  }

  // one drawing after the other: a switch during a drawing waits for its turn
  let drawing = Promise.resolve();
  const redraw = () => { drawing = drawing.then(draw); };

  document.getElementById("theme").addEventListener("click", () => {
    root.dataset.theme = theme() === "dark" ? "light" : "dark";
    redraw();
  });
  prefersDark.addEventListener("change", redraw);
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
      button.textContent = "Copied";
    });
  }
  redraw();
})();
