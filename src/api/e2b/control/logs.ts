/** The guest's console in the form of E2B's logs. */
import type { z } from 'zod';
import { plainLines } from '../../../base/text/plain.ts';
import { SandboxError } from '../../../sandbox/contract/errors.ts';
import type { App } from '../../rest/route.ts';
import { E2bError } from '../errors.ts';
import { E2B_LIMITS } from '../limits.ts';
import type { E2bParts } from '../parts.ts';
import {
  failures,
  idParams,
  LOG_LEVELS,
  type logEntry,
  logsAnswer,
  logsQuery,
  oldLogsAnswer,
  oldLogsQuery,
} from './schema.ts';

type Entry = z.input<typeof logEntry>;

const tags = ['logs'];
const description =
  'The console of the current VM. Lines have the time that the kernel gave them, or that of the line before.';

export function addLogRoutes(app: App, parts: E2bParts): void {
  app.get(
    '/sandboxes/:sandboxID/logs',
    {
      schema: {
        tags,
        operationId: 'getSandboxLogsV1',
        description,
        params: idParams,
        querystring: oldLogsQuery,
        response: { 200: oldLogsAnswer, ...failures },
      },
    },
    async ({ params, query }) => {
      const { start, limit = E2B_LIMITS.logLinesMax } = query;
      const entries = from(await entriesOf(parts, params.sandboxID), start).slice(0, limit);
      const logs = entries.map(({ timestamp, message }) => ({ timestamp, line: message }));
      return { logs, logEntries: entries };
    },
  );
  app.get(
    '/v2/sandboxes/:sandboxID/logs',
    {
      schema: {
        tags,
        operationId: 'getSandboxLogs',
        description,
        params: idParams,
        querystring: logsQuery,
        response: { 200: logsAnswer, ...failures },
      },
    },
    async ({ params, query }) => {
      const { cursor, limit = E2B_LIMITS.logLinesMax, direction, level = 'debug', search } = query;
      const all = await entriesOf(parts, params.sandboxID);
      const isBackward = direction === 'backward';
      const inTime = isBackward ? until(all, cursor).toReversed() : from(all, cursor);
      const least = LOG_LEVELS.indexOf(level);
      const found = inTime.filter(
        (entry) => LOG_LEVELS.indexOf(entry.level) >= least && (search === undefined || entry.message.includes(search)),
      );
      return { logs: found.slice(0, limit) };
    },
  );
}

const from = (entries: readonly Entry[], ms: number | undefined): readonly Entry[] =>
  ms === undefined ? entries : entries.filter(({ timestamp }) => Date.parse(timestamp) >= ms);
const until = (entries: readonly Entry[], ms: number | undefined): readonly Entry[] =>
  ms === undefined ? entries : entries.filter(({ timestamp }) => Date.parse(timestamp) <= ms);

/** Includes ended sandboxes. @throws E2bError 404 */
async function entriesOf({ control }: E2bParts, id: string): Promise<readonly Entry[]> {
  try {
    const { createdAtMs } = await control.get(id);
    return consoleEntries((await control.logs(id)).console, createdAtMs);
  } catch (error) {
    if (!(error instanceof SandboxError) || error.code !== 'not_found') throw error;
    throw new E2bError(404, `there is no sandbox ${JSON.stringify(id)}`, { cause: error });
  }
}

/**
 * `[    1.234567] text`: seconds since the boot.
 */
const KERNEL_TIME = /^\[\s{0,12}(\d{1,9}\.\d{1,9})\]/;

/** @param startMs milliseconds since 1970 */
export function consoleEntries(text: string, startMs: number): Entry[] {
  let atMs = startMs;
  const lines = plainLines(text).split('\n');
  return lines
    .filter((line) => line.trim() !== '')
    .map((message) => {
      const seconds = KERNEL_TIME.exec(message)?.[1];
      // A restored VM continues the time of its first boot.
      if (seconds !== undefined) atMs = Math.max(atMs, startMs + Number(seconds) * 1000);
      return { timestamp: new Date(atMs).toISOString(), message, level: 'info', fields: {} };
    });
}
