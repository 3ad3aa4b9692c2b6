/** Programs in a sandbox, and information about its guest. */
import { outputText } from '../../../base/text/output-text.ts';
import type { Guest, Process } from '../../../machine/guest/guest.ts';
import type { AnswerMemory } from '../answer-buffer.ts';
import type { ApiMetrics } from '../api-metrics.ts';
import { API_LIMITS } from '../limits.ts';
import { collectOutput } from '../output.ts';
import { type ApiParts, type App, clientGone, failures, whenClosed } from '../route.ts';
import { channelStats, sandboxLogs, usageList } from '../schema/answers.ts';
import { execResult, guestInfo, keptOutput, processExit, processList } from '../schema/guest-answers.ts';
import { guestQuery, idParams, offsetsQuery, processParams } from '../schema/params.ts';
import { type ExecRequest, execRequest } from '../schema/requests.ts';
import { Slots } from '../slots.ts';

const tags = ['guest'];

export function addGuestRoutes(
  app: App,
  parts: ApiParts & { readonly counted: Pick<ApiMetrics, 'operationAnswered'>; readonly memory: AnswerMemory },
): void {
  const { control } = parts;
  addExec(app, parts);
  addOutput(app, parts);
  app.get(
    '/sandboxes/:id/guest',
    {
      schema: {
        tags,
        operationId: 'getGuest',
        summary: 'Get the agent and its start times',
        params: idParams,
        querystring: guestQuery,
        response: { 200: guestInfo, ...failures },
      },
    },
    async ({ params, query }, reply) => {
      const isToRead = query.access === 'read';
      return (await (isToRead ? control.reader(params.id, clientGone(reply)) : control.guest(params.id))).info;
    },
  );
  app.get(
    '/sandboxes/:id/processes',
    {
      schema: {
        tags,
        operationId: 'listProcesses',
        summary: 'List the programs',
        params: idParams,
        response: { 200: processList, ...failures },
      },
    },
    async ({ params }) => {
      const guest = await control.guest(params.id);
      return { processes: [...(await guest.processes())], ended: [...(await guest.endedProcesses())] };
    },
  );
  app.get(
    '/sandboxes/:id/channel',
    {
      schema: {
        tags,
        operationId: 'getChannel',
        summary: 'Get the traffic of the channel between host and sandbox',
        params: idParams,
        response: { 200: channelStats, ...failures },
      },
    },
    ({ params }) => control.channelStats(params.id),
  );
  app.get(
    '/sandboxes/:id/usage',
    {
      schema: {
        tags,
        operationId: 'getUsage',
        summary: 'List the latest model requests, oldest first',
        params: idParams,
        response: { 200: usageList, ...failures },
      },
    },
    async ({ params }) => ({ usage: [...(await control.usage(params.id))] }),
  );
  app.get(
    '/sandboxes/:id/logs',
    {
      schema: {
        tags,
        operationId: 'getLogs',
        summary: 'Get the serial console and the VMM log',
        description: 'Kept for the newest 200 ended sandboxes, except removed ones.',
        params: idParams,
        response: { 200: sandboxLogs, ...failures },
      },
    },
    ({ params }) => control.logs(params.id),
  );
}

function addExec(app: App, { control, clock, counted, memory }: Parameters<typeof addGuestRoutes>[1]): void {
  const slots = new Slots('programs', API_LIMITS.execsMax, API_LIMITS.execsPerSandboxMax);
  app.post(
    '/sandboxes/:id/exec',
    {
      schema: {
        tags,
        operationId: 'exec',
        summary: 'Run a program and wait for it',
        description:
          'Answers with the output when the program has ended. If the client disconnects, the program is killed.',
        params: idParams,
        body: execRequest,
        response: { 200: execResult, ...failures },
      },
    },
    async ({ params, body }, reply) => {
      const outputBytesMax = Math.min(body.outputBytesMax ?? Infinity, API_LIMITS.outputBytesMax);
      const gone = clientGone(reply);
      const giveBack = slots.take(params.id);
      const buffers = {
        stdout: memory.buffer(params.id, outputBytesMax),
        stderr: memory.buffer(params.id, outputBytesMax),
      };
      whenClosed(reply.raw, () => {
        buffers.stdout.release();
        buffers.stderr.release();
      });
      try {
        const guest = await control.guest(params.id);
        const askedMs = clock.now();
        const process = await start(guest, { ...body, outputBytesMax }, gone);
        counted.operationAnswered((clock.now() - askedMs) / 1000);
        process.stdin.end(body.stdin);
        const { exit, ...output } = await collectOutput(process, outputBytesMax, buffers);
        return { ...exit, ...output };
      } finally {
        giveBack();
      }
    },
  );
}

function addOutput(app: App, { control }: ApiParts): void {
  const slots = new Slots('waits', API_LIMITS.execsMax, API_LIMITS.execsPerSandboxMax);
  app.get(
    '/sandboxes/:id/processes/:pid/output',
    {
      schema: {
        tags,
        operationId: 'getOutput',
        summary: 'Get the latest output of a program',
        description: 'The last 64 KiB of each stream are kept, also of the last 64 programs that ended.',
        params: processParams,
        querystring: offsetsQuery,
        response: { 200: keptOutput, ...failures },
      },
    },
    async ({ params, query }, reply) => {
      const giveBack = slots.take(params.id);
      try {
        const kept = await (await control.guest(params.id)).keptOutput(params.pid, query, clientGone(reply));
        const { from, to } = kept;
        const [stdout, stderr] = [outputText(kept.stdout, false), outputText(kept.stderr, false)];
        const encoding = { stdout: stdout.encoding, stderr: stderr.encoding };
        return { from, to, stdout: stdout.text, stderr: stderr.text, encoding };
      } finally {
        giveBack();
      }
    },
  );
  app.get(
    '/sandboxes/:id/processes/:pid/exit',
    {
      schema: {
        tags,
        operationId: 'waitForProcess',
        summary: 'Wait for the end of a program',
        description: 'The program continues if the client disconnects.',
        params: processParams,
        response: { 200: processExit, ...failures },
      },
    },
    async ({ params }, reply) => {
      const giveBack = slots.take(params.id);
      try {
        const guest = await control.guest(params.id);
        return await (await guest.logs(params.pid, null, clientGone(reply))).exit;
      } finally {
        giveBack();
      }
    },
  );
}

function start(guest: Guest, request: ExecRequest, signal: AbortSignal): Promise<Process> {
  const { env, cwd, user, stdin, timeoutMs, outputBytesMax } = request;
  const options = {
    stdin: stdin !== undefined,
    ...(env === undefined ? {} : { env }),
    ...(cwd === undefined ? {} : { cwd }),
    ...(user === undefined ? {} : { user }),
    ...(timeoutMs === undefined ? {} : { timeoutMs }),
    ...(outputBytesMax === undefined ? {} : { outputBytesMax }),
  };
  if ('argv' in request) return guest.exec({ argv: request.argv, ...options }, signal);
  const { code, args = [] } = request;
  return guest.python({ script: { code }, args, ...options }, signal);
}
