// A line as small as a word: traffic with one peer over the samples that the node keeps.

import { attribute, svg } from "./dom";

const WIDTH = 120;
const HEIGHT = 28;
const POINTS = 120;

export class Sparkline {
  private readonly line = svg("path", { class: "line" });
  private readonly area = svg("path", { class: "area" });
  readonly element = svg(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", class: "sparkline", role: "img" },
    this.area,
    this.line,
  );

  render(values: number[], label: string): void {
    const most = Math.max(1, ...values);
    const first = POINTS - values.length;
    const points = values.map((value, index) => {
      const x = ((first + index) / (POINTS - 1)) * WIDTH;
      const y = HEIGHT - 2 - (value / most) * (HEIGHT - 4);
      return `${x.toFixed(1)},${y.toFixed(1)}`;
    });
    const start = ((first / (POINTS - 1)) * WIDTH).toFixed(1);
    attribute(this.line, "d", points.length ? `M${points.join("L")}` : "");
    attribute(this.area, "d", points.length ? `M${start},${HEIGHT}L${points.join("L")}L${WIDTH},${HEIGHT}Z` : "");
    attribute(this.element, "aria-label", label);
  }
}
