/** A line of a guest as each kind of message: a value within its bounds, or a reason that fits on a terminal. */

import { GUEST_LIMITS } from '../../src/machine/guest/limits.ts';
import {
  parseConfirm,
  parseEntry,
  parseEvent,
  parseExitFrame,
  parseFileEvent,
  parseHello,
  parseReply,
  readProcesses,
  readStarted,
  readStats,
} from '../../src/machine/guest/protocol.ts';
import { must, target } from './target.ts';

const UNPRINTABLE = /[\p{Cc}\p{Cf}\u2028\u2029]/u;
const EXIT =
  '"exitCode":0,"signal":null,"timedOut":false,"oomKilled":false,"oomVictim":{"pid":7,"name":"x","rssBytes":1},"truncated":false,"durationMs":1.5';

export const guestMessages = target(
  'guest-messages',
  (bytes) => {
    const parsers = [parseHello, parseConfirm, parseEvent, parseExitFrame, parseFileEvent];
    for (const parse of parsers) {
      const parsed = parse(bytes);
      if (!parsed.ok) mustPrint(parsed.reason);
      else if ('message' in parsed.value) mustPrint(parsed.value.message);
    }
    const entry = parseEntry(bytes);
    if (entry.ok) {
      const { name, path, bytes: size, mode } = entry.value;
      // A byte that is no UTF-8 is a lone surrogate of three bytes.
      must(name.length <= GUEST_LIMITS.fileNameBytesMax, 'a long name');
      must(path.length <= GUEST_LIMITS.pathBytesMax, 'a long path');
      must(Number.isSafeInteger(size) && size >= 0, `size ${size}`);
      must(mode >= 0 && mode <= 0o7777, `mode ${mode}`);
    } else mustPrint(entry.reason);
    const reply = parseReply(bytes);
    if (!reply.ok) mustPrint(reply.reason);
    else if (!reply.value.ok) mustPrint(reply.value.error.message);
    else {
      for (const read of [readStarted, readStats, readProcesses]) {
        const fields = read(reply.value.fields);
        if (!fields.ok) mustPrint(fields.reason);
      }
    }
  },
  {
    seeds: [
      '{"type":"hello","protocol":1,"agent":"1","python":"3","timings":{"kernelToInitMs":1,"initToAgentMs":null,"agentToHelloMs":2},"overlay":"disk","cgroup":true}',
      '{"type":"refused","code":"x","message":"no\\u001b[0m"}',
      '{"type":"pressure","memoryBytes":1,"highEvents":2,"limitBytes":3,"some":1.5,"full":0}',
      '{"type":"warm","modules":[{"name":"numpy","durationMs":3,"error":null}]}',
      `{"type":"exit",${EXIT}}`,
      `{"type":"exit","pid":3,"exit":{${EXIT}}}`,
      '{"type":"rename","name":"a"}',
      '{"name":"a","path":"/a","type":"file","bytes":1,"mode":420,"owner":"u","group":"g","modifiedMs":1,"symlinkTarget":null}',
      '{"ok":true,"pid":4,"warm":true}',
      '{"ok":true,"processes":[{"pid":1,"kind":"exec","argv":["a"],"cwd":"/","user":"u","tag":null,"pty":false,"detached":false,"ageMs":1}]}',
      '{"ok":true,"cpuCount":1,"cpuBusyMs":1,"uptimeMs":1,"memoryTotalBytes":1,"memoryAvailableBytes":1,"userMemoryBytes":1,"userProcesses":1,"diskTotalBytes":1,"diskFreeBytes":1,"oomKills":null}',
      '{"ok":false,"code":"disk_full","message":"full"}',
      '\ufeff{"type":"dropped","count":9007199254740991}',
    ].map((text) => Buffer.from(text)),
  },
);

function mustPrint(text: string): void {
  must(!UNPRINTABLE.test(text), `controls a terminal: ${JSON.stringify(text)}`);
  must(text.length <= 2 * GUEST_LIMITS.messageCharactersMax, 'a long message');
}
