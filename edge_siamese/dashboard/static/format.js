/** Numbers and times as text. */

/** 0.98, as in the explanations of the device. */
export const probability = (p) => p.toFixed(2);

/** `1 view`, `2 views`. */
export function counted(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

/** `just now`, `5 min ago`, `today, 14:05`; a time ahead of this computer's clock, which the device's may be, as a date. */
export function ago(iso, now = Date.now()) {
  if (!iso) return "never";
  const seconds = (now - Date.parse(iso)) / 1000;
  if (seconds < -60) return `${day(iso)}, ${clock(iso).slice(0, 5)}`;
  if (seconds < 10) return "just now";
  if (seconds < 60) return `${Math.floor(seconds)} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400 && day(iso) === day(new Date(now).toISOString())) return `today, ${clock(iso).slice(0, 5)}`;
  return `${day(iso)}, ${clock(iso).slice(0, 5)}`;
}

/** 14:05:09, local time. */
export function clock(iso) {
  return new Date(iso).toLocaleTimeString("en-GB");
}

/** 27 November 2026. */
export function day(iso) {
  return new Date(iso).toLocaleDateString("en-GB", { day: "numeric", month: "long", year: "numeric" });
}

/** `42 s`, `3 min`, `2 h 5 min`, `3 days`. */
export function duration(seconds) {
  if (seconds < 100) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`;
  return counted(Math.floor(seconds / 86400), "day");
}

/** 9.9 ms, 120 ms. */
export function milliseconds(ms) {
  return ms === null || ms === undefined ? "–" : `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
}
