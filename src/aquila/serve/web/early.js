// Before the first paint: the theme and the language of last time, so that nothing flashes.
(() => {
  let kept = {};
  try {
    kept = JSON.parse(localStorage.getItem("aquila.preferences") ?? "{}");
  } catch {
    // A browser that keeps nothing, or something that is not ours: the defaults hold.
  }
  const root = document.documentElement;
  if (kept.theme === "light" || kept.theme === "dark") root.dataset.theme = kept.theme;
  const wanted = kept.language === "zh" || kept.language === "en" ? kept.language : navigator.language;
  root.lang = wanted.toLowerCase().startsWith("zh") ? "zh-CN" : "en";
})();
