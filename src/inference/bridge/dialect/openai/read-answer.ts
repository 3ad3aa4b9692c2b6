import { PieceReader } from '../answer-events.ts';
import type { AnswerContext } from '../model.ts';
import { openaiGrammar } from './answer-grammar.ts';

/** Reads chat completions for a guest of another dialect. */
export class OpenaiAnswerReader extends PieceReader {
  constructor(context: AnswerContext, id: string) {
    super(openaiGrammar, context, id);
  }
}
