import { describe, expect, it } from 'vitest';
import type { LogChunk } from '../../sandbox/contract/control.ts';
import { LogLines, type LogView } from './log-lines.ts';

const of = (source: LogChunk['source']) => (text: string) => ({ source, text, skippedBytes: 0 }) as const;
const [console, vmm] = [of('console'), of('vmm')];

function printed(view: LogView, chunks: readonly LogChunk[]): string {
  const lines = new LogLines(view);
  return chunks.map((chunk) => lines.add(chunk)).join('') + lines.end();
}

describe('LogLines', () => {
  it('both sources: prints the console unchanged, and marks whole lines of the VMM', () => {
    const view = { onlyVmm: false, plain: false };
    const chunks = [console('a\nlogin: '), vmm('qemu: wa'), vmm('rning\nmore'), console('b\n')];
    expect(printed(view, chunks)).toBe('a\nlogin: \n[vmm] qemu: warning\nb\n[vmm] more\n');
  });

  it('only the VMM: prints its output unchanged', () => {
    const view = { onlyVmm: true, plain: false };
    expect(printed(view, [vmm('x\ny'), console('no'), vmm('z\n')])).toBe('x\nyz\n');
  });

  it('on a terminal: replaces control characters, even across split line ends', () => {
    const view = { onlyVmm: false, plain: true };
    const chunks = [console('a\x1b[31m\r'), console('\nb\r'), console('c\n'), vmm('\x1b]0;x\x07\n')];
    expect(printed(view, chunks)).toBe('a?[31m\nb?c\n[vmm] ?]0;x?\n');
  });

  it('prints an endless line of the VMM in parts', () => {
    const lines = new LogLines({ onlyVmm: false, plain: false });
    const shown = Array.from({ length: 10 }, () => lines.add(vmm('x'.repeat(1000)))).join('');
    expect(shown.length).toBeGreaterThan(4000);
  });
});
