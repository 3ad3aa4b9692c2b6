/** Answers of Firecracker's API after a guest has taken it over: a value, or a fault that fits on a terminal. */
import { isDeepStrictEqual } from 'node:util';
import { readAnswer } from '../../src/machine/vmm/firecracker/api-answer.ts';
import { must, target } from './target.ts';

const FAULT_CHARACTERS_MAX = 1_000;

export const firecrackerAnswers = target(
  'firecracker-answers',
  (bytes) => {
    const [choice = 0] = bytes;
    const status = [200, 204, 400, 500, 301][choice % 5] ?? 200;
    const body = bytes.toString('utf8', 1);
    const answer = readAnswer(status, body);
    if (answer.kind === 'value') {
      must(status === 200 || (status === 204 && body === ''), `status ${status} is no value`);
      must(status !== 200 || isDeepStrictEqual(JSON.parse(body), answer.value), 'another value');
      return;
    }
    must((answer.kind === 'refused') === status >= 400, `status ${status} is ${answer.kind}`);
    must(!/\p{Cc}/u.test(answer.fault), 'a fault controls a terminal');
    must(answer.fault.length <= FAULT_CHARACTERS_MAX, 'a long fault');
  },
  {
    seeds: [
      '\0{"id":"a","state":"Running"}',
      '\x01',
      '\x02{"fault_message":"Invalid\\u001b[0m"}',
      '\x02{"error":"x\ny"}',
      '\x03{"fault_message":7}',
    ],
  },
);
