// What the link to a peer will carry, as the node foresees it: an interval on a line from nothing, and its median.

import { attribute, h, show, svg, text } from "./dom";
import * as format from "./format";
import type { Forecast } from "./model";

const WIDTH = 120;
const HEIGHT = 8;

export class Foreseen {
  private readonly interval = svg("rect", { class: "interval", y: "0", height: String(HEIGHT) });
  private readonly median = svg("rect", { class: "median", y: "0", width: "2", height: String(HEIGHT) });
  private readonly band = svg(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", class: "band", "aria-hidden": "true" },
    this.interval,
    this.median,
  );
  private readonly rate = h("span", { class: "traffic" });
  private readonly words = h("span", { class: "muted" });
  readonly element = h("div", { class: "foreseen" }, h("div", { class: "peer-traffic" }, this.band, this.rate), this.words);

  render(forecast: Forecast | undefined): void {
    show(this.element, forecast !== undefined);
    if (!forecast) return;
    const place = (rate: number) => (forecast.high ? (rate / forecast.high) * (WIDTH - 2) : 0);
    attribute(this.interval, "x", place(forecast.low).toFixed(1));
    attribute(this.interval, "width", (2 + place(forecast.high) - place(forecast.low)).toFixed(1));
    attribute(this.median, "x", place(forecast.rate).toFixed(1));
    text(this.rate, format.rate(forecast.rate));
    const sure = `${Math.round(forecast.confidence * 100)} %`;
    const between = `${format.rate(forecast.low)} and ${format.rate(forecast.high)}`;
    const words = `foreseen for the next ${format.period(forecast.horizon)}; with ${sure} between ${between}`;
    // a number stays with its unit
    text(this.words, words.replaceAll(/(\d) /g, "$1\u00a0"));
  }
}
