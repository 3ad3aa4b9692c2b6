import { describe, expect, it } from 'vitest';
import type { CassetteReport } from '../../../host/runtime/model-servers/tape.ts';
import { endCassette } from './cassette.ts';

const missing = {
  sandboxId: 's',
  dialect: 'openai',
  operation: 'chat',
  model: 'm\u001b[2J',
  difference: 'It differs.',
};
const replay: CassetteReport = { mode: 'replay', path: '/c.json', answered: 2, unanswered: 0, missing: [] };
const record: CassetteReport = { ...replay, mode: 'record' };

function end(report: CassetteReport, status: number, json = false): [number, string] {
  let text = '';
  const write = (more: string): void => {
    text += more;
  };
  return [endCassette({ json, stderr: { write } as never }, report, status), text];
}

describe('endCassette', () => {
  it('a replay without a missing answer has the status of the script, and says nothing', () => {
    expect(end(replay, 0)).toEqual([0, '']);
    expect(end(replay, 7)).toEqual([7, '']);
  });

  it.each([0, 1, 7, 123, 124])('a missing answer: 122 instead of %i', (status) => {
    const [result, text] = end({ ...replay, unanswered: 1, missing: [missing] }, status);
    expect(result).toBe(122);
    expect(text).toBe(
      'neurovisor: 1 request had no answer in the cassette /c.json:\n' +
        '  openai chat to m?[2J: It differs.\n' +
        'fix: record it again: neurovisor run --record FILE\n',
    );
  });

  it('a failure of NeuroVisor keeps its status', () => {
    expect(end({ ...replay, unanswered: 1, missing: [missing] }, 125)[0]).toBe(125);
  });

  it('names ten, and counts the others; nothing with -o json', () => {
    const many = { ...replay, unanswered: 30, missing: Array(12).fill(missing) };
    expect(end(many, 0)[1]).toContain('  and 20 more\n');
    expect(end(many, 0, true)).toEqual([122, '']);
  });

  it('a recording says what it has, and what got no answer', () => {
    expect(end(record, 3)).toEqual([3, 'neurovisor: recorded 2 requests in /c.json\n']);
    expect(end({ ...record, answered: 0, unanswered: 1 }, 0)).toEqual([
      0,
      'neurovisor: 1 request got no answer from the model server, and is not recorded\n' +
        'neurovisor: no request to a model was recorded; /c.json stays as it is\n',
    ]);
  });
});
