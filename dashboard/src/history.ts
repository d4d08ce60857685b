// What has happened to one component or peer, folded away.

import { h, Keyed, show, text } from "./dom";
import * as format from "./format";
import type { LogRecord } from "./model";
import { describe } from "./events";

const LINES = 20;

export class History {
  private readonly summary = h("summary");
  private readonly list = h("ol", { class: "history" });
  readonly element = h("details", {}, this.summary, this.list);
  private readonly rows = new Keyed<LogRecord>(this.list, () => {
    const when = h("time");
    const what = h("span");
    return {
      element: h("li", {}, when, what),
      update: (record) => {
        text(when, format.moment(new Date(record.time)));
        text(what, describe(record));
      },
    };
  });
  private newest = -1;

  constructor(private readonly isWanted: (record: LogRecord) => boolean) {}

  render(log: LogRecord[]): void {
    const newest = log.at(-1)?.seq ?? 0;
    if (newest === this.newest) return;
    this.newest = newest;
    const found = log.filter(this.isWanted);
    show(this.element, found.length > 0);
    text(this.summary, `History (${found.length})`);
    this.rows.render(found.slice(-LINES).reverse().map((record) => [String(record.seq), record]));
  }
}
