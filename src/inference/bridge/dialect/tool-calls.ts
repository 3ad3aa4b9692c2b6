/**
 * Joins the deltas of tool calls, which servers number, name and cut differently, into one whole call after another.
 * Performs no I/O.
 */
import { broken } from '../errors.ts';
import { isJsonObject, parseObject } from '../json-body.ts';
import type { CallDelta } from './answer-piece.ts';
import type { AnswerEvent } from './model.ts';

/** Limit per answer; more is `upstream_protocol`. */
export const TOOL_CALLS_MAX = 1000;
/** Limit of one call's arguments in characters; more is `upstream_protocol`. */
export const ARGUMENTS_CHARACTERS_MAX = 4 * 1024 * 1024;
const ID_CHARACTERS_MAX = 256;
const NAME_CHARACTERS_MAX = 256;

interface OpenCall {
  readonly index: number | undefined;
  id: string | undefined;
  name: string | undefined;
  /** The arguments so far as non-empty pieces, without leading white space. */
  readonly pieces: string[];
  length: number;
  held: string;
  started: boolean;
  isObject: boolean;
}

export class ToolCallReader {
  readonly #emit: (event: AnswerEvent) => void;
  readonly #answerId: string;
  readonly #ids = new Set<string>();
  readonly #indexes = new Set<number>();
  #open: OpenCall | undefined;
  #count = 0;

  constructor(emit: (event: AnswerEvent) => void, answerId: string) {
    this.#emit = emit;
    this.#answerId = answerId;
  }

  get count(): number {
    return this.#count;
  }

  /** @throws BridgeError `upstream_protocol` */
  read({ index, input, ...delta }: CallDelta): void {
    const id = textOf(delta.id, ID_CHARACTERS_MAX);
    const name = textOf(delta.name, NAME_CHARACTERS_MAX);
    const call =
      this.#open !== undefined && !isNext(this.#open, { index, id, name }) ? this.#open : this.#begin(index, id, name);
    if (call === undefined) return;
    call.id ??= id;
    call.name ??= name;
    this.#add(call, isJsonObject(input) ? JSON.stringify(input) : input);
    this.#send(call);
  }

  /**
   * Ends the open call, if any.
   * @param isCut the answer was cut off, maybe within the arguments
   * @throws BridgeError `upstream_protocol`
   */
  end(isCut: boolean): void {
    const call = this.#open;
    this.#open = undefined;
    if (call === undefined) return;
    if (!call.started) throw broken('a tool call has no name');
    const text = call.pieces.join('').trim();
    if (text === '' || text === 'null') this.#emit({ type: 'tool-arguments', text: '{}' });
    else if (!(isCut && call.isObject) && parseObject(text) === undefined) {
      throw broken('the arguments of a tool call are not a JSON object');
    } else this.#pass(call, '');
    this.#emit({ type: 'tool-end' });
  }

  #begin(index: number | undefined, id: string | undefined, name: string | undefined): OpenCall | undefined {
    if (index !== undefined && this.#indexes.has(index) && name === undefined) {
      throw broken('parts of a tool call came after its end');
    }
    this.end(false);
    this.#count += 1;
    if (this.#count > TOOL_CALLS_MAX) throw broken('there are too many tool calls');
    if (index !== undefined) this.#indexes.add(index);
    this.#open = { index, id, name, pieces: [], length: 0, held: '', started: false, isObject: false };
    return this.#open;
  }

  /** Looks at each character only once: the upstream chooses how many pieces there are. */
  #add(call: OpenCall, text: string): void {
    call.length += text.length;
    if (call.length > ARGUMENTS_CHARACTERS_MAX) throw broken('a tool call is too long');
    const isFirst = call.pieces.length === 0;
    const piece = isFirst ? text.trimStart() : text;
    if (piece === '') return;
    if (isFirst) call.isObject = piece.startsWith('{');
    call.pieces.push(piece);
    call.held += piece;
  }

  #send(call: OpenCall): void {
    if (call.name === undefined) return;
    if (!call.started) {
      call.started = true;
      this.#emit({ type: 'tool-start', id: this.#unique(call.id), name: call.name });
    }
    // Arguments that do not begin as an object may still turn out empty, and are sent at the end.
    if (!call.isObject) return;
    const last = call.held.charCodeAt(call.held.length - 1);
    this.#pass(call, last >= 0xd800 && last <= 0xdbff ? call.held.slice(-1) : '');
  }

  #pass(call: OpenCall, rest: string): void {
    const text = call.held.slice(0, call.held.length - rest.length);
    call.held = rest;
    if (text !== '') this.#emit({ type: 'tool-arguments', text: text.toWellFormed() });
  }

  /**
   * Clients match results by the id, so it must exist and be unique, even in the conversation: the next request
   * contains the calls of all answers.
   */
  #unique(given: string | undefined): string {
    const isOwn = given === undefined || this.#ids.has(given);
    const id = isOwn ? `call_${this.#answerId}_${this.#count}` : given;
    this.#ids.add(id);
    return id;
  }
}

function isNext(
  open: OpenCall,
  delta: { readonly index: number | undefined; readonly id: string | undefined; readonly name: string | undefined },
): boolean {
  if (delta.index !== undefined && open.index !== undefined && delta.index !== open.index) {
    return true;
  }
  if (delta.name === undefined || open.name === undefined) return false;
  // Without an index, a name begins a call. With one, some servers repeat names, and some number all calls 0.
  if (delta.index === undefined) return true;
  const isOther = open.length > 0 || delta.name !== open.name;
  return delta.id !== undefined && delta.id !== open.id && isOther;
}

function textOf(text: string | undefined, charactersMax: number): string | undefined {
  if (text !== undefined && text.length > charactersMax) throw broken('a tool call has too long an id or name');
  return text?.toWellFormed();
}
