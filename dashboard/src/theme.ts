// Light, dark, or as the system has it; remembered for this browser.

import { attribute, byId, text } from "./dom";

const KEY = "dwcp-theme";
const THEMES = ["auto", "light", "dark"] as const;
const SIGNS = { auto: "◐ Auto", light: "☀ Light", dark: "☾ Dark" } as const;

export function theme(): void {
  const button = byId("theme");
  let chosen = THEMES.find((name) => name === localStorage.getItem(KEY)) ?? "auto";
  const apply = () => {
    attribute(document.documentElement, "data-theme", chosen === "auto" ? undefined : chosen);
    text(button, SIGNS[chosen]);
    attribute(button, "aria-label", `Colours: ${chosen}`);
    document.dispatchEvent(new Event("theme"));
  };
  button.addEventListener("click", () => {
    chosen = THEMES[(THEMES.indexOf(chosen) + 1) % THEMES.length]!;
    localStorage.setItem(KEY, chosen);
    apply();
  });
  apply();
}
