/** The page "Health": frame rate, latency, temperature, memory, the quarantine, and the findings of doctor. */

import { get } from "./api.js";
import { attempt, button, errorLine, fill, h, icon, setText, showError } from "./dom.js";
import { counted, duration, milliseconds } from "./format.js";
import { quarantine } from "./quarantine.js";

export const name = "health";
export const title = "Health";

const POLL_MS = 2000;
const MAX_FIRST_MS = 1000;
const SAMPLES = 60;
const SVG = "http://www.w3.org/2000/svg";
const STAGES = {
  wait: "Wait for the camera", imaging: "Preprocess", encode: "Encode", decide: "Decide", frame: "Total",
};

/** @param {HTMLElement} place */
export function mount(place, { heading, signal }) {
  const line = errorLine();
  const fps = tile("Frames per second", sparkline());
  const temperature = tile("Temperature");
  const memory = tile("Memory");
  const uptime = tile("Uptime");
  const stages = h("tbody");
  const model = h("dl.facts");
  const integrations = h("ul.integrations");
  const checks = doctor(signal);
  const integrationsBox = h("section.card", { hidden: true, "aria-labelledby": "integrations" }, h("h2", { id: "integrations" }, "Integrations"), integrations);
  const failedParts = quarantine();
  let failures = 0;
  let timer = 0;

  const draw = (found) => {
    const rate = found.frames_per_second;
    const camera = found.dropped === null ? [] : [`${found.dropped} dropped`, counted(found.restarts, "camera restart")];
    fps.set(rate === null ? "–" : rate.toFixed(1), [counted(found.frames, "frame"), ...camera].join(", "), rate ?? 0);
    temperature.set(found.temperature_c === null ? "–" : `${found.temperature_c.toFixed(0)} °C`, found.temperature_c === null ? "no sensor" : found.temperature_c >= 80 ? "the board throttles" : "");
    memory.set(found.memory_mb === null ? "–" : `${found.memory_mb.toFixed(0)} MB`, "");
    uptime.set(duration(found.uptime_s), "");
    drawStages(stages, found.stages);
    drawModel(model, found);
    drawIntegrations(integrations, found.integrations ?? {});
    integrationsBox.hidden = integrations.children.length === 0;
  };

  const poll = async () => {
    clearTimeout(timer);
    if (!document.hidden) {
      try {
        const [found, { parts }] = await Promise.all([get("/health", { signal }), get("/quarantine", { signal })]);
        draw(found);
        failures = parts.length;
        failedParts.update(parts);
        setText(line, "");
      } catch (error) {
        showError(line, error);
      }
    }
    if (!signal.aborted) timer = setTimeout(poll, POLL_MS);
  };

  const show = () => fill(place, heading, line, failures ? failedParts.node : null,
    h("div.tiles", {}, fps.node, temperature.node, memory.node, uptime.node),
    h("div.health-grid", {},
      h("section.card", { "aria-labelledby": "latency" }, h("h2", { id: "latency" }, "Latency by stage"),
        h("table.stages", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Stage"), h("th", { scope: "col" }, "p50"), h("th", { scope: "col" }, "p95"))), stages),
        h("p.small.soft", {}, "p50 is the median, p95 the 95th percentile. The bars share one scale.")),
      h("div.column", {}, h("section.card", { "aria-labelledby": "model" }, h("h2", { id: "model" }, "Model"), model), integrationsBox),
    ),
    failures ? null : failedParts.node,
    checks,
  );
  signal.addEventListener("abort", () => clearTimeout(timer));
  fill(place, heading, line);
  // All at once, since a button that moves is easily missed. A daemon that does not answer leaves the doctor.
  Promise.race([poll(), new Promise((resolve) => setTimeout(resolve, MAX_FIRST_MS))]).then(() => signal.aborted || show());
}

/** A number with its name. */
function tile(label, chart = null) {
  const value = h("dd.figure");
  const note = h("dd.small.soft");
  const node = h("div.tile.card", {}, h("dl", {}, h("dt.eyebrow", {}, label), value, note), chart?.node);
  return {
    node,
    set(text, more, sample) {
      setText(value, text);
      setText(note, more);
      if (sample !== undefined) chart?.add(sample);
    },
  };
}

/** A line chart of the last two minutes. */
function sparkline() {
  const samples = [];
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${SAMPLES - 1} 24`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("class", "spark");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "polyline");
  svg.append(path);
  return {
    node: h("div.spark-box", { "aria-hidden": "true" }, svg),
    add(sample) {
      samples.push(sample);
      if (samples.length > SAMPLES) samples.shift();
      const maximum = Math.max(...samples, 1) * 1.1;
      const start = SAMPLES - samples.length;
      path.setAttribute("points", samples.map((value, place) => `${start + place},${(24 - (22 * value) / maximum).toFixed(1)}`).join(" "));
    },
  };
}

function drawStages(body, stages) {
  const work = Object.entries(stages).filter(([stage]) => stage !== "wait");
  const maximum = Math.max(...work.map(([, { p95_ms: p95 }]) => p95 ?? 0), 0.001);
  const order = ["imaging", "encode", "decide", "frame", "wait"];
  const rows = Object.entries(stages).sort(([a], [b]) => order.indexOf(a) - order.indexOf(b));
  fill(body, ...rows.map(([stage, { p50_ms: p50, p95_ms: p95 }]) => {
    const inner = h("span.bar50");
    const outer = h("span.bar95");
    inner.style.setProperty("--share", String(Math.min(1, (p50 ?? 0) / maximum)));
    outer.style.setProperty("--share", String(Math.min(1, (p95 ?? 0) / maximum)));
    const bars = stage === "wait" ? null : h("span.bars", { "aria-hidden": "true" }, outer, inner);
    return h("tr", {}, h("th", { scope: "row" }, h("span.stage-name", {}, h("span", {}, STAGES[stage] ?? stage), bars)),
      h("td", {}, milliseconds(p50)), h("td", {}, milliseconds(p95)));
  }));
}

function drawModel(list, { model, selftest }) {
  const rows = model
    ? [["Name", model.model_id], ["Runtime", `${model.runtime}, ${model.precision}`], ["Threshold", `${Number(model.threshold).toFixed(3)}, ${model.threshold_source}`]]
    : [["Name", "none"]];
  if (selftest) rows.push(["Self-test", selftest.text ?? (passed(selftest) ? "passed" : "failed")]);
  fill(list, ...rows.map(([term, value]) => h("div", {}, h("dt", {}, term), h("dd", {}, value))));
}

const passed = (selftest) => selftest.ok ?? selftest.passed ?? false;

function drawIntegrations(list, integrations) {
  fill(list, ...Object.entries(integrations).map(([integration, report]) => {
    const { state, ...more } = report ?? {};
    const details = Object.entries(more).filter(([key, value]) => key !== "url" && ["string", "number"].includes(typeof value) && value !== "").map(([key, value]) => `${key.replaceAll("_", " ")} ${value}`);
    return h("li", {}, h("strong", {}, integration), " ", h("span", {}, String(state ?? "")), details.length ? h("span.small.soft", {}, details.join(", ")) : null);
  }));
}

/** The findings of doctor, fetched by a button because the checks take a while. */
function doctor(signal) {
  const line = errorLine();
  const findings = h("ul.findings");
  const verdict = h("p", { role: "status" });
  const run = button("Run checks", () => attempt(line, run, async () => {
    setText(verdict, "Running checks …");
    try {
      const found = await get("/doctor", { signal });
      setText(verdict, summary(found.findings));
      fill(findings, ...[...found.findings].sort((a, b) => LEVELS.indexOf(a.level) - LEVELS.indexOf(b.level)).map(finding));
    } catch (error) {
      setText(verdict, "");
      throw error;
    }
  }), { icon: "stethoscope" });
  return h("section.card", { "aria-labelledby": "doctor" },
    h("div.row.between", {}, h("div", {}, h("h2", { id: "doctor" }, "Doctor"), h("p.small.soft", {}, "Checks everything from the power supply to the model, and suggests remedies.")), run),
    line, verdict, findings);
}

/** Levels of findings, the worst first. `unknown`: the check was not possible, which is no problem by itself. */
const LEVELS = ["error", "warning", "ok", "unknown"];
const TONES = { error: "bad", warning: "warn", ok: "good", unknown: "unknown" };
const SYMBOLS = { error: "warn", warning: "warn", ok: "check", unknown: "unknown" };

/** The number of problems, and of checks that were not possible. */
function summary(findings) {
  const count = (...levels) => findings.filter(({ level }) => levels.includes(level)).length;
  const problems = count("error", "warning");
  const checks = counted(findings.length - count("unknown"), "check");
  const impossible = count("unknown") ? ` ${counted(count("unknown"), "check")} ${count("unknown") === 1 ? "was" : "were"} not possible here.` : "";
  return `${problems ? counted(problems, "problem") : "No problems"} found in ${checks}.${impossible}`;
}

function finding({ check, level, text, remedy }) {
  return h("li", { "data-level": TONES[level] ?? "unknown" },
    icon(SYMBOLS[level] ?? "unknown"), h("div", {}, h("p", {}, h("strong", {}, check), level === "ok" ? "" : h("span.unseen", {}, ` (${level})`), `: ${text}`), remedy ? h("p.small.soft", {}, remedy) : null));
}
