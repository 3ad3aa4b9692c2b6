/** The audit logs: a stream of records, one request, a check. */
import type { Administration } from '../../tenants/administration.ts';
import type { AuditListing } from '../../tenants/audit-listing.ts';
import { noteRead } from '../audit.ts';
import { errorAnswer } from '../errors.ts';
import { API_LIMITS } from '../limits.ts';
import { type ApiParts, type App, eventStream, failures, whenClosed } from '../route.ts';
import { auditedRequest, auditLogQuery, auditParams, auditQuery, auditVerification } from '../schema/administration.ts';
import { Slots } from '../slots.ts';
import { streamTexts } from './events.ts';

export function addAuditRoutes(app: App, { clock, log }: ApiParts, administration: Administration): void {
  const slots = new Slots('readers of the audit log', API_LIMITS.auditReadersMax);
  app.get(
    '/audit',
    {
      schema: {
        tags: ['administration'],
        operationId: 'streamAudit',
        summary: 'Stream records of the audit log, oldest first',
        description:
          'Server-sent events: `id:` the number in its log, `data:` an AuditRecord as JSON. `event: end` follows the last ' +
          'one; `event: error` with an ErrorBody ends a stream that failed.',
        querystring: auditQuery,
        response: { 200: eventStream('The records.'), ...failures },
      },
    },
    async (request, reply) => {
      const giveBack = slots.take();
      if (request.query.content === true) noteRead(request, request.query.tenant);
      reply.hijack();
      whenClosed(reply.raw, giveBack);
      const parts = { clock, log, title: 'records of the audit log' };
      await streamTexts(reply.raw, parts, (signal) => recordTexts(administration, { ...request.query, signal }));
    },
  );
  app.get(
    '/audit/verification',
    {
      schema: {
        tags: ['administration'],
        operationId: 'verifyAudit',
        summary: 'Find changed, missing and reordered records of all logs',
        description: 'Reads all logs, which may take a minute.',
        querystring: auditLogQuery,
        response: { 200: auditVerification, ...failures },
      },
    },
    ({ query }) => administration.verifyAudit(query.tenant),
  );
  app.get(
    '/audit/:seq',
    {
      schema: {
        tags: ['administration'],
        operationId: 'getAuditedRequest',
        summary: 'Get all that the logs have of one request to a model',
        description: 'Reading it leaves a record.',
        params: auditParams,
        querystring: auditLogQuery,
        response: { 200: auditedRequest, ...failures },
      },
    },
    async (request) => {
      const { params, query } = request;
      const found = await administration.auditedRequest(params.seq, query.tenant);
      noteRead(request, query.tenant);
      return found;
    },
  );
}

/** A failure is the last event, since the answer has begun. */
async function* recordTexts(administration: Administration, listing: AuditListing): AsyncGenerator<string, void> {
  try {
    for await (const record of administration.audit(listing)) {
      yield `id: ${record.seq}\ndata: ${JSON.stringify(record)}\n\n`;
    }
    yield 'event: end\ndata: {}\n\n';
  } catch (error) {
    yield `event: error\ndata: ${JSON.stringify(errorAnswer(error).body)}\n\n`;
  }
}
