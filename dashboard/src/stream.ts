// Server-sent events by fetch, because EventSource cannot send the token. Comes back by itself, from where it was.

import { headers } from "./api";

/** Milliseconds: more than two of the node's keep-alives. */
const SILENCE = 40_000;
const FIRST_PAUSE = 500;
const LONGEST_PAUSE = 5_000;

export type Connection =
  | { state: "connecting" }
  | { state: "live" }
  | { state: "lost"; since: Date; reason: string }
  | { state: "token"; wrong: boolean };

export class Stream {
  private lastId = "";
  private pause = FIRST_PAUSE;
  private lostSince: Date | undefined;
  private wake: (() => void) | undefined;

  constructor(
    private readonly onEvent: (event: string, data: unknown) => void,
    private readonly onConnection: (connection: Connection) => void,
  ) {
    addEventListener("online", () => this.retry());
    document.addEventListener("visibilitychange", () => document.hidden || this.retry());
  }

  /** Tries now, where it waits to try again. */
  retry(): void {
    this.wake?.();
  }

  async run(): Promise<never> {
    this.onConnection({ state: "connecting" });
    for (;;) {
      let reason = "the node has ended the stream";
      try {
        const refused = await this.connect();
        if (refused) {
          this.onConnection({ state: "token", wrong: "Authorization" in headers() });
          await new Promise<void>((resolve) => (this.wake = resolve));
          continue;
        }
      } catch (error) {
        reason = error instanceof Error && error.name !== "TypeError" ? error.message : "the node does not answer";
      }
      this.lostSince ??= new Date();
      this.onConnection({ state: "lost", since: this.lostSince, reason });
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, this.pause * (0.75 + Math.random() / 2));
        this.wake = () => (clearTimeout(timer), resolve());
      });
      this.pause = Math.min(LONGEST_PAUSE, this.pause * 2);
    }
  }

  /** Reads until the stream ends; true where the node wants another token. */
  private async connect(): Promise<boolean> {
    const abort = new AbortController();
    let silence: ReturnType<typeof setTimeout> | undefined;
    const heard = () => {
      clearTimeout(silence);
      silence = setTimeout(() => abort.abort(new Error("nothing was heard from the node")), SILENCE);
    };
    try {
      heard();
      const response = await fetch("/events", {
        headers: { ...headers(), ...(this.lastId && { "Last-Event-ID": this.lastId }) },
        cache: "no-store",
        signal: abort.signal,
      });
      if (response.status === 401) return true;
      if (!response.ok || !response.body) {
        throw new Error((await response.json().catch(() => ({}))).message ?? `the node answers ${response.status}`);
      }
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let pending = "";
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return false;
        heard();
        const messages = (pending + value).split("\n\n");
        pending = messages.pop() ?? "";
        for (const message of messages) this.take(message);
      }
    } finally {
      clearTimeout(silence);
      abort.abort();
    }
  }

  private take(message: string): void {
    let event = "";
    let data = "";
    for (const line of message.split("\n")) {
      if (line.startsWith("id: ")) this.lastId = line.slice(4);
      else if (line.startsWith("event: ")) event = line.slice(7);
      else if (line.startsWith("data: ")) data += line.slice(6);
    }
    if (!event) return;
    this.onEvent(event, JSON.parse(data));
    this.pause = FIRST_PAUSE;
    this.lostSince = undefined;
    this.onConnection({ state: "live" });
  }
}
