/** Counts the events of Anthropic's API, which pass byte for byte, or a whole answer. Pure. */
import type { JsonObject } from '../../json-body.ts';
import { AnswerCounter } from '../../usage.ts';
import { MessageGrammar } from './answer-grammar.ts';

export class MessageUsage extends AnswerCounter {
  readonly #grammar = new MessageGrammar();

  /** Input tokens so far, including those from the cache; undefined if none were reported. */
  get input(): number | undefined {
    return this.#grammar.input;
  }

  /** @param event data of the next event */
  see(event: JsonObject): void {
    this.add(this.#grammar.parsedEvent(event));
  }

  seeWhole(message: JsonObject): void {
    this.add(this.#grammar.document(message));
  }
}
