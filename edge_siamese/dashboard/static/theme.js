/* Light or dark theme, set before the first paint: the saved choice, or else that of the system. */
(() => {
  const KEY = "edge-siamese-theme"; // other pages of the same origin have a theme, too
  const system = window.matchMedia("(prefers-color-scheme: dark)");

  /** @returns {"light"|"dark"|"system"} the saved choice */
  const chosen = () => {
    try {
      return localStorage.getItem(KEY) || "system";
    } catch {
      return "system"; // storage is disabled
    }
  };

  const apply = () => {
    const theme = chosen() === "system" ? (system.matches ? "dark" : "light") : chosen();
    document.documentElement.dataset.theme = theme;
    const color = document.querySelector("meta[name=theme-color]");
    if (color) color.content = theme === "dark" ? "#121416" : "#f4f3ef";
  };

  system.addEventListener("change", apply);
  apply();

  window.theme = {
    chosen,
    /** Switch to the next of system, light and dark. */
    next() {
      const all = ["system", "light", "dark"];
      const theme = all[(all.indexOf(chosen()) + 1) % all.length];
      try {
        localStorage.setItem(KEY, theme);
      } catch {
        document.documentElement.dataset.theme = theme;
        return;
      }
      apply();
    },
  };
})();
