/** What a daemon's home keeps beside sandboxes. */
import { errorCode } from '../../base/errors.ts';
import { ignore } from '../../base/ignore.ts';
import type {
  BuildEvent,
  BuildWork,
  HomeContents,
  HomeDisk,
  HomeImages,
  HomeModels,
  HomeTemplates,
  LongWork,
} from '../../sandbox/contract/contents.ts';
import { SandboxError } from '../../sandbox/contract/errors.ts';
import type { BuiltImage, ImageBuild } from '../../sandbox/contract/schema/contents.ts';
import type { SentBuildEvent } from '../rest/schema/contents.ts';
import * as answers from './answers.ts';
import { answerError, answerInvalid, ClientError } from './errors.ts';
import type { Requests } from './requests.ts';
import { serverSent } from './server-sent.ts';

/** Room for an image whose labels and layers are as long as a registry may make them. */
const LINE_CHARACTERS_MAX = 16 * 1024 * 1024;

export function remoteContents(requests: Requests): HomeContents {
  return {
    images: remoteImages(requests),
    templates: remoteTemplates(requests),
    models: remoteModels(requests),
    disk: remoteDisk(requests),
  };
}

function remoteImages(requests: Requests): HomeImages {
  const { transport, get, post } = requests;
  return {
    async list() {
      return (await get('/images', answers.imageList)).images;
    },

    async get(name) {
      const [image] = (await get('/images', answers.imageList, new URLSearchParams({ name }))).images;
      if (image === undefined) throw answerInvalid('no image');
      return image;
    },

    pull: (reference, when, work) => doWork(requests, '/images/pull', { reference, when }, answers.imagePull, work),

    build: (build, files, work) => buildImage(requests, build, files, work),

    async remove(names) {
      const query = namesOf(names);
      return await transport.call({ method: 'DELETE', path: '/images', query, answer: answers.removedImages });
    },

    prune: (all) => post('/images/prune', { all }, answers.removedImages),
  };
}

async function buildImage(
  requests: Requests,
  build: ImageBuild,
  files: AsyncIterable<Uint8Array> | null,
  work: BuildWork,
): Promise<BuiltImage> {
  const sent: { fault?: unknown } = {};
  async function* body(): AsyncGenerator<Uint8Array> {
    yield Buffer.from(`${JSON.stringify(build)}\n`);
    try {
      if (files !== null) yield* files;
    } catch (error) {
      sent.fault = error;
      throw error;
    }
  }
  const onEvent = (event: string, value: unknown): void => {
    if (event !== 'build') return;
    const read = answers.buildEvent.read(value);
    if (read === null) throw answerInvalid('a malformed event of a build');
    work.onEvent(receivedEvent(read.value));
  };
  try {
    return await doWork(requests, '/images/build', body(), answers.builtImage, work, onEvent);
  } catch (error) {
    if (sent.fault === undefined || work.signal.aborted) throw error;
    ignore(error, 'the request ended with its body');
    throw sent.fault;
  }
}

function receivedEvent(event: SentBuildEvent): BuildEvent {
  if (event.kind !== 'output') return event;
  const { base64, ...rest } = event;
  return { ...rest, chunk: Buffer.from(base64, 'base64') };
}

function remoteTemplates(requests: Requests): HomeTemplates {
  const { transport, get } = requests;
  return {
    async list() {
      return (await get('/templates', answers.templateList)).templates;
    },

    create: (creation, work) => doWork(requests, '/templates', creation, answers.template, work),

    async remove(texts) {
      const query = namesOf(texts);
      const answer = answers.removedTemplates;
      return (await transport.call({ method: 'DELETE', path: '/templates', query, answer })).templates;
    },

    import: (dir, name, work) => doWork(requests, '/templates/import', { dir, name }, answers.importedTemplate, work),

    pull: (reference, name, work) =>
      doWork(requests, '/templates/pull', { reference, name }, answers.importedTemplate, work),
  };
}

function remoteModels(requests: Requests): HomeModels {
  const { transport, get } = requests;
  return {
    async list() {
      return (await get('/models', answers.modelList)).models;
    },

    pull: (source, options, work) => doWork(requests, '/models/pull', { source, ...options }, answers.modelPull, work),

    async remove(names) {
      const query = namesOf(names);
      return (await transport.call({ method: 'DELETE', path: '/models', query, answer: answers.freedBytes })).bytes;
    },
  };
}

const remoteDisk = ({ get, post }: Requests): HomeDisk => ({
  usage: () => get('/disk', answers.diskUsage),
  prune: (all) => post('/disk/prune', { all }, answers.prunedDisk),
});

const namesOf = (names: readonly string[]): URLSearchParams => new URLSearchParams({ name: names });

/**
 * Sends a request whose answer streams progress and ends with the result. An abort closes the connection, which cancels
 * the work.
 * @param onEvent gets events that are neither progress nor the end
 * @throws the daemon's error; ClientError; SandboxError `cancelled`
 */
async function doWork<T>(
  { transport }: Requests,
  path: string,
  body: object | AsyncIterable<Uint8Array>,
  result: answers.Answer<T>,
  { progress, signal }: LongWork,
  onEvent: (event: string, value: unknown) => void = () => undefined,
): Promise<T> {
  const stream = await transport.stream(path, signal, true, body);
  try {
    for await (const { event, data } of serverSent(stream, LINE_CHARACTERS_MAX)) {
      const value: unknown = JSON.parse(data);
      if (event === 'error') throw answerError(200, value);
      if (event === 'progress') {
        const read = answers.progressEvent.read(value);
        if (read === null) throw answerInvalid('malformed progress');
        progress(read.value);
      } else if (event === 'result') {
        const read = result.read(value);
        if (read === null) throw answerInvalid(`POST ${path}`);
        return read.value;
      } else onEvent(event, value);
    }
  } catch (error) {
    if (signal.aborted) throw cancelled(signal);
    if (errorCode(error) !== 'ECONNRESET') throw error;
  } finally {
    stream.destroy();
  }
  if (signal.aborted) throw cancelled(signal);
  throw new ClientError('daemon_lost', 'the daemon ended before its work was done', {
    remedy: 'start it again (neurovisor serve), and repeat the command',
  });
}

const cancelled = ({ reason }: AbortSignal): SandboxError =>
  new SandboxError('cancelled', 'the request was canceled', { cause: reason });
