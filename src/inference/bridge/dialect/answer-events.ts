/**
 * Turns the pieces of an upstream's answer, streamed or whole, into events. Whatever an upstream sends, the events are
 * in the order that `model.ts` promises, or an error is thrown. Performs no I/O.
 */
import { BridgeError, broken } from '../errors.ts';
import { parseObject } from '../json-body.ts';
import type { AnswerDelta, AnswerGrammar, AnswerPiece, DeltaPart, Finish, UsageReport } from './answer-piece.ts';
import type { AnswerReader } from './dialect.ts';
import type { AnswerContext, AnswerEvent, AnswerUsage, StopReason } from './model.ts';
import { errorMessage } from './read-answer-values.ts';
import { ToolCallReader } from './tool-calls.ts';

export class PieceReader implements AnswerReader {
  readonly #grammar: AnswerGrammar;
  readonly #context: AnswerContext;
  readonly #tools: ToolCallReader;
  readonly #text: TextJoiner;
  #events: AnswerEvent[] = [];
  #started = false;
  #finish: Finish | undefined;
  #matched: unknown;
  #refused = false;
  #usage: AnswerUsage | undefined;
  #ended = false;

  /** @param id random id of the answer */
  constructor(grammar: AnswerGrammar, context: AnswerContext, id: string) {
    this.#grammar = grammar;
    this.#context = context;
    this.#text = new TextJoiner((event) => this.#events.push(event));
    this.#tools = new ToolCallReader((event) => this.#events.push(event), id);
  }

  readEvent(data: string, see?: (piece: AnswerPiece) => void): readonly AnswerEvent[] {
    if (this.#ended) return [];
    const piece = this.#grammar.event(data);
    if (piece === undefined) throw broken('an event is not a JSON object');
    see?.(piece);
    return piece.isEnd === true ? this.end() : this.#read(piece);
  }

  readDocument(text: string, see?: (piece: AnswerPiece) => void): readonly AnswerEvent[] {
    const value = parseObject(text);
    if (value === undefined) throw broken('the answer is not a JSON object');
    const piece = this.#grammar.document(value);
    see?.(piece);
    return [...this.#read(piece), ...this.end()];
  }

  /**
   * Call when the upstream has sent everything.
   * @throws BridgeError `upstream_died` if it did not mark the answer as complete; `upstream_protocol`
   */
  end(): readonly AnswerEvent[] {
    if (this.#ended) return [];
    const finish = this.#finish;
    if (finish === undefined) {
      throw new BridgeError('upstream_died', 'the answer ended without a finish reason');
    }
    this.#ended = true;
    if (finish === 'failed') {
      this.#events.push({ type: 'error', message: 'The model server stopped before the end.' });
      return this.#take();
    }
    this.#text.end();
    this.#tools.end(finish === 'length');
    if (this.#usage !== undefined) this.#events.push({ type: 'usage', usage: this.#usage });
    this.#events.push({ type: 'stop', ...this.#stop(finish) });
    return this.#take();
  }

  #read({ error, usage, deltas }: AnswerPiece): readonly AnswerEvent[] {
    if (error !== undefined) {
      this.#ended = true;
      this.#events.push({ type: 'error', message: errorMessage(error) });
      return this.#take();
    }
    if (!this.#started) this.#events.push({ type: 'start' });
    this.#started = true;
    this.#usage = (usage && answerUsage(usage)) ?? this.#usage;
    // The request asks for one choice.
    for (const delta of deltas) if (delta.choice === 0) this.#readDelta(delta);
    return this.#take();
  }

  #readDelta({ parts, finish, sequence }: AnswerDelta): void {
    for (const part of parts) this.#readPart(part);
    this.#finish = finish ?? this.#finish;
    this.#matched = sequence ?? this.#matched;
  }

  #readPart(part: DeltaPart): void {
    if (part.type === 'other') return;
    if (part.type === 'call') {
      this.#text.end();
      this.#tools.read(part);
      return;
    }
    this.#tools.end(false);
    if (part.type === 'refusal') this.#refused = true;
    this.#text.add(part.type === 'reasoning' ? 'reasoning' : 'text', part.text);
  }

  #stop(finish: Finish): { readonly reason: StopReason; readonly sequence: string | null } {
    const matched = this.#matched;
    if (finish === 'length' || finish === 'refusal') return { reason: finish, sequence: null };
    if (this.#tools.count > 0) return { reason: 'tool-calls', sequence: null };
    if (this.#refused) return { reason: 'refusal', sequence: null };
    if (typeof matched === 'string' && this.#context.stop.includes(matched)) {
      return { reason: 'stop-sequence', sequence: matched };
    }
    return { reason: 'end', sequence: null };
  }

  #take(): readonly AnswerEvent[] {
    const events = this.#events;
    this.#events = [];
    return events;
  }
}

/** Joins surrogate halves that an upstream sent in two pieces. */
class TextJoiner {
  readonly #emit: (event: AnswerEvent) => void;
  #type: 'text' | 'reasoning' = 'text';
  #half = '';

  constructor(emit: (event: AnswerEvent) => void) {
    this.#emit = emit;
  }

  add(type: 'text' | 'reasoning', text: string): void {
    if (type !== this.#type) this.end();
    this.#type = type;
    const all = this.#half + text;
    const last = all.charCodeAt(all.length - 1);
    this.#half = last >= 0xd800 && last <= 0xdbff ? all.slice(-1) : '';
    this.#send(all.slice(0, all.length - this.#half.length));
  }

  end(): void {
    const half = this.#half;
    this.#half = '';
    this.#send(half);
  }

  #send(text: string): void {
    if (text !== '') this.#emit({ type: this.#type, text: text.toWellFormed() });
  }
}

/** Undefined if a count is missing. */
export function answerUsage({ input, output, cached = 0, reasoning }: UsageReport): AnswerUsage | undefined {
  if (input === undefined || output === undefined) return undefined;
  return {
    inputTokens: input,
    outputTokens: output,
    cachedTokens: Math.min(cached, input),
    ...(reasoning === undefined ? {} : { reasoningTokens: Math.min(reasoning, output) }),
  };
}
