// What the reader chose, kept in the browser: theme, language, sampling, tools.

const KEY = "aquila.preferences";

// The parameters of `aquila_generate`, with its defaults, and those that the engine adds to them.
export const PARAMETERS = [
  { name: "temperature", value: 0.8, min: 0, max: 2, step: 0.05 },
  { name: "top_k", value: 30, min: 0, max: 200, step: 1 },
  { name: "top_p", value: 0.95, min: 0.01, max: 1, step: 0.01 },
  { name: "max_tokens", value: 200, min: 1, max: 4096, step: 1 },
  { name: "min_p", value: 0, min: 0, max: 1, step: 0.01, more: true },
  { name: "repetition_penalty", value: 1, min: 0.5, max: 2, step: 0.05, more: true },
  { name: "presence_penalty", value: 0, min: -2, max: 2, step: 0.1, more: true },
  { name: "frequency_penalty", value: 0, min: -2, max: 2, step: 0.1, more: true },
];

export const defaults = () => ({
  ...Object.fromEntries(PARAMETERS.map(({ name, value }) => [name, value])), seed: "", stop: "",
});

export const preferences = { theme: "auto", language: "auto", model: "", sampling: defaults(), toolsOff: [], ...kept() };
preferences.sampling = { ...defaults(), ...preferences.sampling };

function kept() {
  try {
    const value = JSON.parse(localStorage.getItem(KEY) ?? "{}");
    return typeof value === "object" && value !== null ? value : {};
  } catch {
    return {};
  }
}

export function keep(changes) {
  Object.assign(preferences, changes);
  try {
    localStorage.setItem(KEY, JSON.stringify(preferences));
  } catch {
    // A browser that keeps nothing: the choice holds until the page is closed.
  }
}

// The sampling fields of a request.
export function samplingFields() {
  const { seed, stop, ...rest } = preferences.sampling;
  const stops = stop.split("\n").filter(Boolean).map((line) => line.replaceAll("\\n", "\n"));
  return { ...rest, ...(seed === "" ? {} : { seed: Number(seed) }), ...(stops.length ? { stop: stops } : {}) };
}
