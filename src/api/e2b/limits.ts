import { MIB } from '../../base/units.ts';

/**
 * Limits of what clients of the E2B interface may send and hold. A status in brackets is the answer beyond the limit.
 */
export const E2B_LIMITS = {
  /** Longest wait of a broken stream for the end of its sandbox: its client is told of an end, or of a lost connection. */
  endMsMax: 5000,
  /** Id in a request: ours have 20 characters, but a header may hold anything. */
  idCharactersMax: 64,
  /** Name of a template or snapshot, or a search in logs. */
  templateCharactersMax: 256,
  hostCharactersMax: 253,
  httpsPortsMax: 16,
  /** Rules that change requests, for one host. */
  rulesOfHostMax: 16,
  /** Layers and entries of one list of a volume's files, its bytes, and the time for one step [413]. */
  volumeDepthMax: 100,
  volumeEntriesMax: 10_000,
  volumeAnswerBytesMax: 8 * MIB,
  volumeStepMsMax: 60_000,
  identityTokensMax: 16,
  /** Items of a page of a list; also the default. */
  pageMax: 100,
  tokenCharactersMax: 256,
  logLinesMax: 1000,
  /** Time after which the answer to a creation no longer waits: clients give up after 60 s. */
  createMsMax: 50_000,
  queueMsMax: 40_000,
  buildRetrySeconds: 20,
  /** Time for which a host without networks is not asked for one again. */
  networkRetryMs: 60_000,
  /** Time in which a healthy guest answers. */
  guestAnswerMsMax: 5000,
  /** Kept metrics of a sandbox, and the least time between two. */
  metricsMax: 720,
  metricsIntervalMs: 1000,
  /** One JSON message of a remote procedure call: a program's environment, or input for it. */
  messageBytesMax: 4 * 1024 * 1024,
  /** Values and names of such a message: arguments and variables. */
  messageJson: { valuesMax: 100_000, namesMax: 8192 },
  /** Fields of such a message, of all depths; variables are counted apart. */
  messageFieldsMax: 256,
  /** Default lifetime of a sandbox: for current requests, and for those before version 2. */
  timeoutSeconds: { v2: 300, v1: 15 },
  /** Likewise for forks. */
  forkTimeoutSeconds: 15,
  /** Silence on a stream after which `keepalive` is sent, unless the client asks for another interval. */
  keepAliveMs: 90_000,
  keepAliveMsMin: 1000,
  /** Time for which the end of a program is kept for a client that returns. */
  exitKeptMs: 30_000,
  templatesMax: 1000,
  tagsMax: 100,
  /** Builds of a tenant that wait for their turn or for their steps [429]. */
  buildsWaitingMax: 32,
  /** Builds of a tenant whose logs are in memory; the oldest finished ones are forgotten. */
  buildsKeptMax: 100,
  /** Builds of a tenant without a tag, and the time for which one is kept after its last use. */
  buildsUntaggedMax: 16,
  untaggedMsMax: 60 * 60_000,
  /** Time after which an unstarted build is forgotten. */
  unstartedMsMax: 2 * 60 * 60_000,
  /** Time of one build from its turn on; then it fails. */
  buildMsMax: 2 * 60 * 60_000,
  stepsMax: 500,
  /** Characters of a command and of any other argument of a step. */
  stepCharactersMax: 256 * 1024,
  /** Log of a build: entries and characters; the rest is omitted. */
  logEntriesMax: 10_000,
  logCharactersMax: 1024 * 1024,
  logLineCharactersMax: 4000,
  /** Entries of one answer, whatever a client asks for. */
  logAnswerMax: 1000,
  /** Log entries included in the reason of a failure. */
  logReasonMax: 20,
  /** One uploaded archive as it is sent [413]. It is unpacked only in VMs, whose disks bound its content. */
  uploadBytesMax: 4 * 1024 ** 3,
  /** Bytes that an upload of unknown length reserves at a time. */
  uploadStepBytes: 64 * 1024 ** 2,
  /** Time of one upload [408]: a byte now and then would hold its place and its reserved bytes. */
  uploadMsMax: 60 * 60_000,
  /** All uploaded archives of a tenant, and uploads in progress [507]; the least recently used archives are removed. */
  uploadsBytesMax: 16 * 1024 ** 3,
  /** Concurrent uploads of all tenants, of one tenant, and those that a tenant always gets [429]. */
  uploadsAtOnce: { sumMax: 128, ownMax: 32, guaranteed: 4, places: 16 },
  /** Upload URLs of one tenant; the oldest is forgotten. */
  uploadUrlsMax: 2000,
  /** Time for which an upload URL is valid. */
  uploadUrlMs: 60 * 60_000,
  /** Output in one event, of a program and of a terminal. */
  chunkBytesMax: { stdio: 32 * 1024, terminal: 16 * 1024 },
  /**
   * Time after which a listener that takes no output is dropped if others listen to the same program. A single listener
   * may stop the program, as with a pipe.
   */
  listenerStallMs: 10_000,
  listenersMax: 64,
  /** Input that waits for a program to read it. */
  inputBytesMax: 8 * 1024 * 1024,
  /** Commands of programs that are kept whole for lists, in JSON characters; the guest cuts longer ones. */
  commandCharactersMax: 16 * 1024,
  /** Calls of envd in progress, of all sandboxes [429]; its guest serves 128 operations of one at a time. */
  callsMax: 8192,
  callShares: { operatorMin: 1024, guaranteed: 64, places: 64 },
  callsPerSandboxMax: 256,
  /** Watchers of one sandbox, events that each keeps, and the time after which an unused one is removed. */
  watchersMax: 64,
  watcherEventsMax: 10_000,
  /** JSON characters of the events that a watcher keeps: a guest may send long names. */
  watcherCharactersMax: 4 * 1024 * 1024,
  /** Such characters of all sandboxes, of one, and those that one always has. */
  watcherMemory: { sumMax: 256 * MIB, ownMax: 32 * MIB, guaranteed: MIB, places: 64 },
  watcherIdleMs: 600_000,
  /** Processor time in ms for signed URLs that do not name their sandbox: at once, and per second [429]. */
  signersMs: { size: 500, refillPerSecond: 100 },
  /** Signatures whose sandbox is remembered. */
  signaturesMax: 10_000,
  filesMax: 1000,
  /** Content that is read before the answer to a download begins: shorter files get their exact length. */
  peekBytes: 64 * 1024,
} as const;
