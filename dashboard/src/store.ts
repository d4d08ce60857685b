// What the page knows of the node, and who wants to be told which part of it has changed.

import { merge, type LogRecord, type NodeDocument, type Sample, type Snapshot } from "./model";

/** Of the log, in memory: what the node keeps for new pages. */
const KEPT_RECORDS = 400;
/** Ten minutes, as the node keeps them. */
const KEPT_SAMPLES = 120;

export type Part = keyof NodeDocument | "samples" | "log";
const PARTS: Part[] = ["node", "health", "components", "peers", "transfers", "transport", "workloads", "jobs", "samples", "log"];

export class Store {
  document: NodeDocument | undefined;
  samples: Sample[] = [];
  log: LogRecord[] = [];
  private views: { parts: Part[]; render: () => void }[] = [];
  private changed = new Set<Part>();
  private scheduled = false;

  /** `render` is called once a frame at most, when one of the parts has changed. */
  watch(parts: Part[], render: () => void): void {
    this.views.push({ parts, render });
  }

  take(event: string, data: unknown): void {
    if (event === "snapshot") {
      const snapshot = data as Snapshot;
      this.document = snapshot.document;
      this.samples = snapshot.samples;
      this.log = snapshot.log;
      this.mark(PARTS);
    } else if (event === "patch") {
      this.document = merge(this.document, data) as NodeDocument;
      this.mark(Object.keys(data as object) as Part[]);
    } else if (event === "sample") {
      this.samples = [...this.samples, data as Sample].slice(-KEPT_SAMPLES);
      this.mark(["samples"]);
    } else if (event === "log") {
      const known = this.log.at(-1)?.seq ?? 0;
      const fresh = (data as LogRecord[]).filter((record) => record.seq > known);
      this.log = [...this.log, ...fresh].slice(-KEPT_RECORDS);
      this.mark(["log"]);
    }
  }

  /** Renders again what shows times that pass. */
  mark(parts: Part[]): void {
    for (const part of parts) this.changed.add(part);
    if (this.scheduled) return;
    this.scheduled = true;
    // a hidden page gets no frames, and need not be drawn
    requestAnimationFrame(() => {
      this.scheduled = false;
      const changed = this.changed;
      this.changed = new Set();
      if (!this.document) return;
      for (const view of this.views) if (view.parts.some((part) => changed.has(part))) view.render();
    });
  }
}
