// Short answers to what somebody did.

import { Refused } from "./api";
import { byId, h } from "./dom";

const SECONDS = 6;

export function toast(message: string): void {
  const element = h("div", { class: "toast" }, message);
  byId("toasts").append(element);
  setTimeout(() => element.remove(), SECONDS * 1000);
}

/** What to tell of a request that failed. */
export const failed = (error: unknown): string =>
  error instanceof Refused ? error.message : "The node does not answer.";
