/** QEMU's answers after a guest has taken it over: messages or a reason, bounded, and the same however cut. */
import { QMP_LINE_BYTES_MAX, QmpDecoder } from '../../src/machine/vmm/qemu/qmp.ts';
import { sameHoweverCut } from './cuts.ts';
import { must, target } from './target.ts';

export const qmp = target(
  'qmp',
  (bytes) => {
    sameHoweverCut(bytes, (pieces) => {
      const decoder = new QmpDecoder();
      const messages: unknown[] = [];
      for (const piece of pieces) {
        const result = decoder.receive(piece);
        // Those before it in the same piece are of no use any more.
        if (!result.ok) return result.reason;
        messages.push(...result.messages);
      }
      return JSON.stringify(messages);
    });
    const result = new QmpDecoder().receive(bytes);
    if (!result.ok) must(result.reason.length < 200, 'a long reason');
    else must(bytes.length <= QMP_LINE_BYTES_MAX || result.messages.length > 0, 'held too much');
  },
  {
    seeds: [
      '{"QMP":{"version":{},"capabilities":[]}}\r\n{"return":{},"id":1}\r\n',
      '{"error":{"class":"GenericError","desc":"no"},"id":2}\r\n',
      '{"event":"SHUTDOWN","data":{"guest":true,"reason":"guest-reset"},"timestamp":{}}\r\n\r\n',
    ],
  },
);
