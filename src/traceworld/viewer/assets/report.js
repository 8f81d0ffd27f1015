"use strict";
// Draws the report: the 3D scene with its slider, the film beside it, the charts. Data: the JSON of #report-data.
(() => {
  const report = JSON.parse(document.getElementById("report-data").textContent);
  const byId = (id) => document.getElementById(id);
  const dark = () => document.documentElement.dataset.theme === "dark";
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const TIME_SCALE = [[0, "#3b0f8f"], [0.35, "#a3219c"], [0.65, "#e8604c"], [0.85, "#fb9f3a"], [1, "#f0e442"]];
  const SAMPLE_COLOURS = ["#ff7a28", "#ffaa3c", "#fa545c", "#ec60aa", "#e0b23c"];
  const TRUTH = "#12b874", EXACT = "#14a6d6"; // what happened after a prediction; the simulator's own traces

  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  function unpack(text, box) { // base64 uint16 steps of the box → three Float32Arrays, NaN where unknown
    const raw = new Uint16Array(bytes(text).buffer);
    return [0, 1, 2].map((axis) => {
      const out = new Float32Array(raw.length / 3);
      const step = (box[1][axis] - box[0][axis]) / 65534;
      for (let i = 0; i < out.length; i++) {
        const v = raw[3 * i + axis];
        out[i] = v === 65535 ? NaN : box[0][axis] + v * step;
      }
      return out;
    });
  }

  // ---------------------------------------------------------------- the 3D scene
  function startScene(data) {
    const element = byId("scene");
    const { box, points: N } = data;
    const times = data.time_s;
    const frames = times.length;
    const paths = unpack(data.paths, box);
    const truth = data.truth ? unpack(data.truth, box) : null;
    const bits = bytes(data.visible);
    const seen = (t, n) => (bits[(t * N + n) >> 3] >> (7 - ((t * N + n) & 7))) & 1;
    const forecasts = data.forecasts.map((f) => ({
      ...f, samples: unpack(f.samples, box), future: f.future ? unpack(f.future, box) : null,
    }));
    const state = { step: 0, forecast: 0, show: { cloud: true, moving: true, still: false, truth: true, samples: true, future: true } };

    const range = [0, 1, 2].map((a) => [data.view_box[0][a], data.view_box[1][a]]);
    const size = range.map(([low, high]) => high - low);
    const largest = Math.max(...size);
    const unitless = (p) => p.map((v, a) => (v - (range[a][0] + range[a][1]) / 2) / largest * 1.6); // plotly's eye space

    // One list of coordinates per layer and step; a line of several pieces is broken by null.
    const empty = () => ({ x: [], y: [], z: [], c: [] });
    const push = (out, source, i, colour) => {
      const known = !Number.isNaN(source[0][i]);
      out.x.push(known ? source[0][i] : null); out.y.push(known ? source[1][i] : null); out.z.push(known ? source[2][i] : null);
      out.c.push(colour);
    };
    const cut = (out) => { out.x.push(null); out.y.push(null); out.z.push(null); out.c.push(0); };
    const wanted = (n, moving) => Boolean(data.moving[n]) === moving;

    function tails(source, step, moving) {
      const out = empty();
      const first = Math.max(0, step - data.tail);
      for (let n = 0; n < N; n++) {
        if (!wanted(n, moving)) continue;
        for (let t = first; t <= step; t++) push(out, source, t * N + n, (t - first + 1) / (step - first + 1));
        cut(out);
      }
      return out;
    }
    function heads(source, step, moving, visible) {
      const out = empty();
      for (let n = 0; n < N; n++) {
        if (wanted(n, moving) && Boolean(seen(step, n)) === visible && !Number.isNaN(source[0][step * N + n])) push(out, source, step * N + n, 1);
      }
      return out;
    }
    function fan(f) { // every sample whole
      const out = empty();
      const [S, K, L] = f.shape;
      for (let s = 0; s < S; s++) for (let k = 0; k < K; k++) {
        for (let h = 0; h < L; h++) push(out, f.samples, (s * K + k) * L + h, SAMPLE_COLOURS[s % SAMPLE_COLOURS.length]);
        cut(out); out.c[out.c.length - 1] = "#000000";
      }
      return out;
    }
    function fanHeads(f, now) { // where each sample is at this moment
      const out = empty();
      const [S, K, L] = f.shape;
      const clock = [f.start_s, ...f.time_s];
      if (now < f.start_s - 1e-6) return out;
      let h = 0;
      while (h + 1 < L && clock[h + 1] <= now + 1e-6) h++;
      for (let s = 0; s < S; s++) for (let k = 0; k < K; k++) {
        let at = (s * K + k) * L + h;
        while (at > (s * K + k) * L && Number.isNaN(f.samples[0][at])) at--; // an ended trace rests where it ended
        push(out, f.samples, at, SAMPLE_COLOURS[s % SAMPLE_COLOURS.length]);
      }
      return out;
    }
    function future(f) {
      const out = empty();
      const [, K, L] = f.shape;
      if (f.future) for (let k = 0; k < K; k++) { for (let h = 0; h < L; h++) push(out, f.future, k * L + h, 1); cut(out); }
      return out;
    }

    const line = (name, points, style) => ({ type: "scatter3d", mode: "lines", name, x: points.x, y: points.y, z: points.z, hoverinfo: "skip", connectgaps: false, showlegend: false, line: style });
    const dots = (name, points, style) => ({ type: "scatter3d", mode: "markers", name, x: points.x, y: points.y, z: points.z, hoverinfo: "skip", showlegend: false, marker: style });
    const traces = [];
    const at = {};
    const add = (key, trace) => { at[key] = traces.length; traces.push(trace); };
    if (data.cloud) {
      const xyz = unpack(data.cloud.xyz, box);
      const rgb = bytes(data.cloud.rgb);
      const colours = Array.from({ length: xyz[0].length }, (_, i) => `rgb(${rgb[3 * i]},${rgb[3 * i + 1]},${rgb[3 * i + 2]})`);
      add("cloud", dots("cloud", { x: xyz[0], y: xyz[1], z: xyz[2] }, { size: 2.6, color: colours, opacity: 1, line: { width: 0 } }));
    }
    const rim = data.frustum;
    const edges = [[0, 1], [0, 2], [0, 3], [0, 4], [1, 2], [2, 3], [3, 4], [4, 1]];
    const frustum = empty();
    edges.forEach(([a, b]) => { [a, b].forEach((i) => { frustum.x.push(rim[i][0]); frustum.y.push(rim[i][1]); frustum.z.push(rim[i][2]); }); cut(frustum); });
    add("camera", line("camera", frustum, { width: 2, color: "#8a94a3" }));
    add("still", dots("still points", empty(), { size: 2.6, color: "#9aa4b2" }));
    if (truth) add("truth", line("exact traces", empty(), { width: 3, color: EXACT }));
    add("tails", line("extracted tails", empty(), { width: 5, color: [], colorscale: TIME_SCALE, cmin: 0, cmax: 1 }));
    add("heads", dots("extracted points", empty(), { size: 4, color: "#f0e442", line: { width: 0.5, color: "#20242c" } }));
    add("hidden", dots("hidden points", empty(), { size: 4, color: "#f0e442", symbol: "circle-open" }));
    if (forecasts.length) {
      add("samples", line("predicted samples", empty(), { width: 3, color: [] }));
      add("future", line("future that happened", empty(), { width: 4, color: TRUTH }));
      add("sampleHeads", dots("predicted now", empty(), { size: 3.6, color: [], line: { width: 0 } }));
    }

    const focus = unitless(data.focus);
    const eyes = { // around what moves; "camera" stands where the recording camera stood, a little back
      front: (() => { const c = unitless(rim[0]); return c.map((v, a) => focus[a] + (v - focus[a]) * 1.05); })(),
      oblique: null, side: null, above: null,
    };
    const away = eyes.front.map((v, a) => v - focus[a]);
    const reach = Math.max(0.6, Math.min(1.7, 0.95 * Math.hypot(...away)));
    const turned = (yaw, lift) => { // the camera's direction turned by yaw (degrees) and raised
      const flat = Math.hypot(away[0], away[1]) || 1, r = (yaw * Math.PI) / 180;
      const d = [(away[0] * Math.cos(r) - away[1] * Math.sin(r)) / flat, (away[0] * Math.sin(r) + away[1] * Math.cos(r)) / flat, lift];
      const norm = Math.hypot(...d);
      return d.map((v, a) => focus[a] + (v / norm) * reach);
    };
    eyes.oblique = turned(32, 0.42); eyes.side = turned(85, 0.12); eyes.above = turned(1, 4);
    const camera = (name) => ({ eye: { x: eyes[name][0], y: eyes[name][1], z: eyes[name][2] }, center: { x: focus[0], y: focus[1], z: focus[2] }, up: { x: 0, y: 0, z: 1 }, projection: { type: "perspective" } });

    const axis = (title, a) => ({
      title: { text: title, font: { size: 11 } }, range: range[a], autorange: false, showbackground: false, showspikes: false, zeroline: false,
      gridcolor: dark() ? "#2a323d" : "#e3e7ec", linecolor: dark() ? "#2a323d" : "#d5dae1", tickfont: { size: 9 }, nticks: 6, color: css("--soft"),
    });
    const axes = () => ({ xaxis: axis(`right, ${data.unit}`, 0), yaxis: axis(`away, ${data.unit}`, 1), zaxis: axis(`up, ${data.unit}`, 2) });
    const layout = {
      margin: { l: 0, r: 0, t: 0, b: 0 }, paper_bgcolor: "rgba(0,0,0,0)", showlegend: false, uirevision: "keep", font: { family: "inherit" },
      scene: { ...axes(), aspectmode: "manual", aspectratio: { x: (1.6 * size[0]) / largest, y: (1.6 * size[1]) / largest, z: (1.6 * size[2]) / largest }, camera: camera("oblique"), dragmode: "orbit" },
    };
    const config = { responsive: true, displaylogo: false, displayModeBar: false, scrollZoom: true };

    function restyle(changes) { // {key: {points, colour?, visible?}} in one call
      const keys = Object.keys(changes).filter((k) => k in at);
      const update = { x: [], y: [], z: [], visible: [], "line.color": [], "marker.color": [] };
      keys.forEach((key) => {
        const { points, colour, visible } = changes[key];
        update.x.push(points.x); update.y.push(points.y); update.z.push(points.z); update.visible.push(visible);
        const trace = traces[at[key]];
        update["line.color"].push(trace.mode === "lines" ? (colour ?? trace.line.color) : undefined);
        update["marker.color"].push(trace.mode === "markers" ? (colour ?? trace.marker.color) : undefined);
      });
      return Plotly.restyle(element, update, keys.map((k) => at[k]));
    }

    function drawMoment() {
      const { step, show } = state;
      const tail = tails(paths, step, true);
      const changes = {
        still: { points: heads(paths, step, false, true), visible: show.still },
        tails: { points: tail, colour: tail.c, visible: show.moving },
        heads: { points: heads(paths, step, true, true), visible: show.moving },
        hidden: { points: heads(paths, step, true, false), visible: show.moving },
      };
      if (truth) changes.truth = { points: tails(truth, step, true), visible: show.truth };
      if (forecasts.length) {
        const now = fanHeads(forecasts[state.forecast], times[step]);
        changes.sampleHeads = { points: now, colour: now.c, visible: show.samples };
      }
      return restyle(changes);
    }
    function drawForecast() {
      if (!forecasts.length) return Promise.resolve();
      const f = forecasts[state.forecast];
      const whole = fan(f);
      return restyle({
        samples: { points: whole, colour: whole.c, visible: state.show.samples },
        future: { points: future(f), visible: state.show.future },
      });
    }

    // ------------------------------------------------------------ controls
    const slider = byId("time"), clock = byId("clock"), play = byId("play"), picture = byId("film"), raw = byId("film-raw");
    slider.max = String(frames - 1);
    let busy = false, again = false;
    async function draw() { // drop frames rather than queue them on a slow machine
      if (busy) { again = true; return; }
      busy = true;
      try { do { again = false; await drawMoment(); } while (again); } finally { busy = false; }
    }
    function showPicture() {
      if (!picture || !report.film.length) return;
      const frame = data.frames[state.step];
      let best = report.film[0];
      for (const item of report.film) if (Math.abs(item.frame - frame) < Math.abs(best.frame - frame)) best = item;
      const source = raw && raw.checked ? best.plain : best.drawn;
      if (picture.getAttribute("src") !== source) picture.src = source;
      byId("film-caption").textContent = `Picture of frame ${best.frame}`;
    }
    function go(step) {
      state.step = Math.max(0, Math.min(frames - 1, step));
      slider.value = String(state.step);
      clock.textContent = `${times[state.step].toFixed(2)} s · frame ${data.frames[state.step]} of ${data.frames[frames - 1]}`;
      slider.setAttribute("aria-valuetext", clock.textContent);
      showPicture();
      return draw();
    }
    slider.addEventListener("input", () => { stop(); go(Number(slider.value)); });
    let running = null;
    function stop() { if (running !== null) cancelAnimationFrame(running); running = null; play.textContent = "▶ Play"; }
    function start() {
      if (frames < 2) return;
      if (state.step === frames - 1) go(0);
      const from = times[state.step], began = performance.now();
      const span = times[frames - 1] - times[0];
      const speed = Math.max(1, span / 12) * Math.min(1, span / 2.5); // between 2.5 and 12 seconds for a whole clip
      play.textContent = "❚❚ Pause";
      const tick = () => {
        const now = from + ((performance.now() - began) / 1000) * speed;
        let step = state.step;
        while (step < frames - 1 && times[step + 1] <= now) step++;
        if (step !== state.step) go(step);
        if (step === frames - 1) stop(); else running = requestAnimationFrame(tick);
      };
      running = requestAnimationFrame(tick);
    }
    play.addEventListener("click", () => (running === null ? start() : stop()));
    if (raw) raw.addEventListener("change", showPicture);
    document.querySelectorAll("[data-layer]").forEach((input) => {
      state.show[input.dataset.layer] = input.checked;
      input.addEventListener("change", async () => {
        state.show[input.dataset.layer] = input.checked;
        if (input.dataset.layer === "cloud") await Plotly.restyle(element, { visible: input.checked }, [at.cloud]);
        await drawForecast(); await draw();
      });
    });
    document.querySelectorAll("[data-eye]").forEach((button) => {
      button.addEventListener("click", () => Plotly.relayout(element, { "scene.camera": camera(button.dataset.eye) }));
    });
    const choice = byId("forecast");
    if (choice) choice.addEventListener("change", async () => {
      state.forecast = Number(choice.value);
      const start_s = forecasts[state.forecast].start_s;
      await drawForecast();
      await go(Math.max(0, times.findIndex((t) => t >= start_s - 1e-6)));
    });

    const ready = Plotly.newPlot(element, traces, layout, config).then(drawForecast)
      .then(() => go(0)).then(() => { element.dataset.ready = "yes"; });
    ready.catch((error) => { element.innerHTML = `<p class="note" style="padding:24px">The 3D view needs WebGL: ${error.message}</p>`; });
    return () => Plotly.relayout(element, Object.fromEntries(Object.entries(axes()).map(([k, v]) => [`scene.${k}`, v])));
  }

  // ---------------------------------------------------------------- charts
  const CHART_COLOURS = ["#e8604c", "#8a94a3", "#12b874", "#fb9f3a"];
  function drawCharts() {
    (report.charts || []).forEach((chart, i) => {
      const data = Object.entries(chart.series).map(([name, y], k) => ({
        type: chart.kind === "bars" ? "bar" : "scatter", mode: chart.kind === "bars" ? undefined : "lines", marker: { color: css("--accent") }, name, x: chart.x, y, line: { width: k === 0 ? 3 : 2, color: k === 0 ? css("--accent") : CHART_COLOURS[(k - 1) % CHART_COLOURS.length], dash: k === 0 ? "solid" : k === 1 ? "dash" : "dot" },
      }));
      const axis = (title) => ({ title: { text: title, font: { size: 12 } }, gridcolor: css("--line"), zeroline: false, color: css("--soft"), linecolor: css("--line") });
      Plotly.react(`chart-${i}`, data, {
        margin: { l: 58, r: 12, t: 8, b: 44 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { family: "inherit", color: css("--ink"), size: 12 },
        xaxis: axis(chart.x_label), yaxis: { ...axis(chart.y_label), rangemode: "tozero" }, legend: { orientation: "h", y: 1.14, x: 0 }, hovermode: "x unified", bargap: 0.06,
      }, { responsive: true, displayModeBar: false });
    });
  }

  const recolour = report.scene ? startScene(report.scene) : () => {};
  drawCharts();
  byId("theme").addEventListener("click", () => {
    document.documentElement.dataset.theme = dark() ? "light" : "dark";
    recolour(); drawCharts();
  });
})();
