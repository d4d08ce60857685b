// The live document of a node, as /events tells it (src/dwcp/dashboard/document.py).

export type Status = "healthy" | "degraded" | "unhealthy";

export interface Component {
  status: Status;
  reason: string;
  since: number;
  recovering: boolean;
  failed: boolean;
  restarts: number;
}

export interface Breaker {
  state: "closed" | "half-open" | "open";
  failures: number;
  trips: number;
  reason: string;
  retry_at?: number;
}

export interface Peer {
  address?: string;
  fingerprint?: string;
  round_trip_milliseconds?: number;
  breaker?: Breaker;
  forecast?: Forecast;
}

/** Bits per second, over the next `horizon` seconds: the median, and between what it will be with `confidence` (0 to 1). */
export interface Forecast {
  rate: number;
  low: number;
  high: number;
  confidence: number;
  horizon: number;
}

/** As /workloads/NAME/versions tells it. */
export interface Version {
  id: string;
  taken_at: number;
  files: number;
  bytes: number;
  new_bytes: number;
  checked_at: number;
  damaged: number;
  restore: string;
}

/** Of a workload. A time that is absent is one that has not come yet. */
export interface Target {
  sent_at?: number;
  version?: string;
  verified_at?: number;
  damaged?: number;
}

export interface Workload {
  source: string;
  enabled: boolean;
  paused: boolean;
  on_change: boolean;
  every?: number;
  cron?: string;
  keep?: string;
  max_age?: number;
  since?: number;
  asked_at?: number;
  next_run_at?: number;
  targets: Record<string, Target>;
}

export interface Job {
  /** None for one that was added by command. */
  workload?: string;
  kind: "send" | "verify";
  source: string;
  target: string;
  state: "running" | "waiting" | "parked";
  priority: number;
  attempts?: number;
  reason?: string;
  started_at?: number;
  not_before?: number;
}

export interface Jobs {
  counts: Record<Job["state"], number>;
  /** By number, as many as the node tells. */
  first: Record<string, Job>;
}

export interface Transfer {
  role: "send" | "receive";
  peer: string;
  target: string;
  state: "running" | "done" | "failed" | "cancelled";
  started_at: number;
  seconds?: number;
  files_total: number;
  files_done: number;
  bytes_total: number;
  bytes_done: number;
  wire_bytes: number;
  /** Of content, all in all; of an ended one. */
  rate_bits_per_second?: number;
  /** Now; of a running one. */
  wire_bits_per_second?: number;
  streams?: number;
  eta_seconds?: number;
  /** At best and at worst. */
  eta_range_seconds?: [number, number];
  /** Of a running one. */
  paused?: boolean;
  error?: string;
}

export interface NodeDocument {
  node: {
    name: string;
    fingerprint: string;
    program: string;
    started_at: number;
    enabled: boolean;
    addresses: Record<string, string>;
    exports: Record<string, { path: string; read_only: boolean }>;
  };
  health: { status: Status; reason: string; circuit_breaker: string; recovery_in_progress: boolean };
  components: Record<string, Component>;
  peers: Record<string, Peer>;
  transfers: Record<string, Transfer>;
  transport: {
    sent_bits_per_second: number;
    received_bits_per_second: number;
    bytes_sent: number;
    bytes_received: number;
    streams: number;
    sessions: number;
    limit_bits_per_second?: number;
    limited_by_operator: boolean;
  };
  workloads?: Record<string, Workload>;
  jobs?: Jobs;
}

export interface Sample {
  time: number;
  sent: number;
  received: number;
  peers: Record<string, number>;
}

export interface LogRecord {
  seq: number;
  time: string;
  kind: string;
  event: string;
  peer?: string;
  detail?: Record<string, string | number | boolean | string[]>;
}

export interface Snapshot {
  document: NodeDocument;
  samples: Sample[];
  interval: number;
  log: LogRecord[];
}

type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

const isObject = (value: unknown): value is { [key: string]: Json } =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** JSON Merge Patch (RFC 7396); parts that did not change are shared with the old document. */
export function merge<T>(document: T, patch: unknown): T {
  if (!isObject(patch)) return patch as T;
  const result: { [key: string]: unknown } = isObject(document) ? { ...document } : {};
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) delete result[key];
    else result[key] = merge(result[key], value);
  }
  return result as T;
}
