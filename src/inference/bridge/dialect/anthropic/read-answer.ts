import { PieceReader } from '../answer-events.ts';
import type { AnswerContext } from '../model.ts';
import { MessageGrammar } from './answer-grammar.ts';

/** Reads messages for a guest of another dialect. */
export class MessagesAnswerReader extends PieceReader {
  constructor(context: AnswerContext, id: string) {
    super(new MessageGrammar(), context, id);
  }
}
