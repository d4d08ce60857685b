// What buttons do: a request to the node and a word on how it went; before what cannot be undone, a question.

import { ask } from "./api";
import { byId, text } from "./dom";
import { failed, toast } from "./toast";

export async function act(path: string, done: string): Promise<void> {
  try {
    await ask("POST", path);
    toast(done);
  } catch (error) {
    toast(failed(error));
  }
}

export interface Question {
  title: string;
  what: string;
  /** What comes of it. */
  hint: string;
  yes: string;
  no: string;
}

/** Acts where the answer is yes. */
export function confirm(question: Question, path: string, done: string): void {
  const dialog = byId<HTMLDialogElement>("confirm-dialog");
  text(byId("confirm-title"), question.title);
  text(byId("confirm-what"), question.what);
  text(byId("confirm-hint"), question.hint);
  text(byId("confirm-yes"), question.yes);
  text(byId("confirm-no"), question.no);
  dialog.returnValue = "";
  dialog.onclose = () => {
    if (dialog.returnValue === "yes") void act(path, done);
  };
  dialog.showModal();
}
