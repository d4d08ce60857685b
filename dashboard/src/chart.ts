// Throughput over the last ten minutes.

import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import * as format from "./format";
import type { Sample } from "./model";

const HEIGHT = 150;
const SPAN = 600;

export class Chart {
  private plot: uPlot | undefined;
  private samples: Sample[] = [];

  constructor(private readonly box: HTMLElement) {
    new ResizeObserver(() => this.plot?.setSize({ width: box.clientWidth, height: HEIGHT })).observe(box);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.redraw());
    document.addEventListener("theme", () => this.redraw());
  }

  render(samples: Sample[]): void {
    this.samples = samples;
    this.plot ??= this.create();
    this.plot.setData([
      samples.map((sample) => sample.time),
      samples.map((sample) => sample.sent),
      samples.map((sample) => sample.received),
    ]);
  }

  /** Canvas does not follow the page's colours by itself. */
  private redraw(): void {
    this.plot?.destroy();
    this.plot = undefined;
    this.render(this.samples);
  }

  /** Canvas wants a colour and no light-dark(). */
  private colour(name: string): string {
    this.box.style.color = `var(${name})`;
    const resolved = getComputedStyle(this.box).color;
    this.box.style.color = "";
    return resolved;
  }

  private create(): uPlot {
    const colour = (name: string) => this.colour(name);
    const axis = { stroke: colour("--chart-text"), grid: { stroke: colour("--chart-grid"), width: 1 }, ticks: { show: false } };
    const line = (label: string, name: string): uPlot.Series => ({
      label,
      stroke: colour(name),
      fill: colour(`${name}-soft`),
      width: 2,
      points: { show: false },
    });
    return new uPlot(
      {
        width: this.box.clientWidth,
        height: HEIGHT,
        legend: { show: false },
        cursor: { show: false },
        padding: [8, 20, 0, 0],
        scales: {
          x: { range: (_plot, _low, high) => [(high ?? 0) - SPAN, high ?? 0] },
          y: { range: (_plot, _low, high) => [0, Math.max(1000, (high ?? 0) * 1.15)] },
        },
        axes: [
          { ...axis, size: 26, space: 90, values: (_plot, times) => times.map((time) => format.second(time).slice(0, -3)) },
          { ...axis, size: 78, space: 44, values: (_plot, rates) => rates.map((rate) => format.rate(rate)) },
        ],
        series: [{}, line("sent", "--sent"), line("received", "--received")],
      },
      [[], [], []],
      this.box,
    );
  }
}
