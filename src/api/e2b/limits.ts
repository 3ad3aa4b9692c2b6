/** Limits of what clients of the E2B interface may send and hold. */
export const E2B_LIMITS = {
  /** Id in a request, characters: ours have 20, a header may hold anything. */
  idCharactersMax: 64,
  /** Name of a template or snapshot, or a search in logs, characters. */
  templateCharactersMax: 256,
  hostCharactersMax: 253,
  httpsPortsMax: 16,
  /** Rules that change requests, for one host. */
  rulesOfHostMax: 16,
  volumeMountsMax: 16,
  /** Items of a page of a list, also if the request names no number. */
  pageMax: 100,
  tokenCharactersMax: 256,
  logLinesMax: 1000,
  /** Time after which the answer to a creation no longer waits, milliseconds: clients give up after 60 s. */
  createMsMax: 50_000,
  /** Time of a creation in the start queue, milliseconds. */
  queueMsMax: 40_000,
  /** `Retry-After` while a template is being built, seconds. */
  buildRetrySeconds: 20,
  /** Time for which a host without networks is not asked for one again, milliseconds. */
  networkRetryMs: 60_000,
  /** Time in which a guest answers that is healthy, milliseconds. */
  guestAnswerMsMax: 5000,
  /** Kept metrics of a sandbox, and the least time between two, milliseconds. */
  metricsMax: 720,
  metricsIntervalMs: 1000,
  /** One JSON message of a remote procedure call, bytes: a program's environment, or input for it. */
  messageBytesMax: 4 * 1024 * 1024,
  /** Seconds of a sandbox's life if the request names none: of today's requests, and of those before version 2. */
  timeoutSeconds: { v2: 300, v1: 15 },
  /** The same for forks. */
  forkTimeoutSeconds: 15,
  /** Silence on a stream after which `keepalive` is sent, milliseconds, unless the client asks for another. */
  keepAliveMs: 90_000,
  keepAliveMsMin: 1000,
  /** Time for which the end of a program is kept for a client that comes back, milliseconds. */
  exitKeptMs: 30_000,
  /** Templates that clients of a tenant have built, and tags of each. */
  templatesMax: 1000,
  tagsMax: 100,
  /** Builds of a tenant that wait for their turn or for their steps [429]. */
  buildsWaitingMax: 32,
  /** Builds of a tenant whose logs are in memory; the oldest finished ones are forgotten. */
  buildsKeptMax: 100,
  /** Time after which a build that nobody starts is forgotten, milliseconds. */
  unstartedMsMax: 2 * 60 * 60_000,
  /** Time of one build from its turn on, milliseconds; then it fails. */
  buildMsMax: 2 * 60 * 60_000,
  stepsMax: 500,
  /** Characters of a command and of another argument of a step. */
  stepCharactersMax: 256 * 1024,
  /** Log of a build: entries and characters; what comes after is left out. */
  logEntriesMax: 10_000,
  logCharactersMax: 1024 * 1024,
  logLineCharactersMax: 4000,
  /** Entries of one answer, whatever a client asks for. */
  logAnswerMax: 1000,
  /** Entries that go with the reason of a failure. */
  logReasonMax: 20,
  /** One uploaded archive as it is sent, bytes [413]. It is unpacked only in VMs, whose disks bound what comes out. */
  uploadBytesMax: 4 * 1024 ** 3,
  /** All uploaded archives of a tenant; those not used for longest are removed. */
  uploadsBytesMax: 16 * 1024 ** 3,
  /** Uploads at once of all tenants, of one, and those that a tenant always gets [429]. */
  uploadsAtOnce: { sumMax: 128, ownMax: 32, guaranteed: 4, places: 16 },
  /** URLs for uploads of one tenant: the oldest is forgotten. */
  uploadUrlsMax: 2000,
  /** Time for which a URL for an upload is valid, milliseconds. */
  uploadUrlMs: 60 * 60_000,
  /** Output in one event, bytes: of a program, and of a terminal. */
  chunkBytesMax: { stdio: 32 * 1024, terminal: 16 * 1024 },
  /**
   * Time after which a listener that takes no output is dropped, milliseconds, if others listen to the same program. A
   * single one may stop the program, as with a pipe.
   */
  listenerStallMs: 10_000,
  listenersMax: 64,
  /** Input that waits for a program to read it, bytes. */
  inputBytesMax: 8 * 1024 * 1024,
  /** Commands of programs that are kept whole for lists, JSON characters each; the guest cuts longer ones. */
  commandCharactersMax: 16 * 1024,
  /** Watchers of one sandbox, events that one keeps, and the time after which an unused one is removed, milliseconds. */
  watchersMax: 64,
  watcherEventsMax: 10_000,
  /** JSON characters of the events that one keeps: a guest may send long names. */
  watcherCharactersMax: 4 * 1024 * 1024,
  watcherIdleMs: 600_000,
  /** Processor time for signed URLs that do not name their sandbox, milliseconds: at once, and per second [429]. */
  signersMs: { size: 500, refillPerSecond: 100 },
  /** Signatures whose sandbox is remembered. */
  signaturesMax: 10_000,
  /** Files in one upload. */
  filesMax: 1000,
  /** Content that is read before the answer to a download begins, bytes: shorter files have their exact length. */
  peekBytes: 64 * 1024,
} as const;
