// The dashboard of one node: a document that the node keeps live, and the views of its parts.

import "./app.css";
import { token } from "./api";
import { components } from "./components";
import { configuration } from "./configuration";
import { attribute, byId, show, text } from "./dom";
import { events } from "./events";
import * as format from "./format";
import { jobs } from "./jobs";
import { overview, tab } from "./overview";
import { peers } from "./peers";
import { Store } from "./store";
import { Stream, type Connection } from "./stream";
import { theme } from "./theme";
import { transfers } from "./transfers";
import { workloads } from "./workloads";

const store = new Store();
let connection: Connection = { state: "connecting" };

const stream = new Stream(
  (event, data) => {
    store.take(event, data);
    tab(store, connection);
  },
  (now) => {
    connection = now;
    showConnection();
    tab(store, now);
  },
);

function showConnection(): void {
  const words = { connecting: "connecting", live: "live", lost: "not connected", token: "token needed" };
  const sign = byId("connection");
  text(sign, words[connection.state]);
  attribute(sign, "data-state", connection.state);
  attribute(document.body, "data-connection", connection.state);
  const lost = byId("lost");
  show(lost, connection.state === "lost");
  if (connection.state === "lost") {
    text(lost, `Not connected since ${format.moment(connection.since)}: ${connection.reason}. What is shown is from then; trying again.`);
  }
  const dialog = byId<HTMLDialogElement>("token-dialog");
  if (connection.state === "token") {
    text(byId("token-problem"), connection.wrong ? "That is not this node's token." : "");
    if (!dialog.open) dialog.showModal();
  } else if (dialog.open) {
    dialog.close();
  }
}

byId("token-dialog").addEventListener("cancel", (event) => event.preventDefault());
byId("token-dialog").querySelector("form")!.addEventListener("submit", (event) => {
  event.preventDefault();
  token.set(byId<HTMLInputElement>("token").value.trim());
  stream.retry();
});

theme();
overview(store);
transfers(store);
workloads(store);
jobs(store);
peers(store);
components(store);
events(store);
configuration(store);
// times that pass
setInterval(() => store.mark(["node"]), 30_000);
void stream.run();
