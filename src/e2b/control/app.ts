/** The control plane's routes, not listening. */

import type { Readable } from 'node:stream';
import Fastify, { type FastifyError, type FastifyReply, type FastifyRequest } from 'fastify';
import {
  hasZodFastifySchemaValidationErrors,
  serializerCompiler,
  validatorCompiler,
} from 'fastify-type-provider-zod';
import { readJsonBody } from '../../api/body.ts';
import type { App } from '../../api/route.ts';
import { describeError } from '../../base/errors.ts';
import { E2bError, errorReply, INTERNAL } from '../errors.ts';
import type { E2bParts } from '../parts.ts';
import { isEqual } from '../tokens.ts';
import { addSandboxRoutes } from './sandboxes.ts';

const PATH_PARAMETER_CHARACTERS_MAX = 256;

export async function createControlApp(parts: E2bParts): Promise<App> {
  const { clock, log, apiKey } = parts;
  const app = Fastify({
    exposeHeadRoutes: false,
    routerOptions: { maxParamLength: PATH_PARAMETER_CHARACTERS_MAX },
  });
  app.setValidatorCompiler(validatorCompiler);
  app.setSerializerCompiler(serializerCompiler);
  app.removeAllContentTypeParsers();
  app.addContentTypeParser('*', async (_request: FastifyRequest, body: Readable) =>
    readJsonBody(body, clock),
  );
  app.addHook('onRequest', async (request) => {
    if (request.routeOptions.url === '/health') return;
    const given = request.headers['x-api-key'];
    if (typeof given === 'string' && isEqual(given, apiKey)) return;
    const what =
      given === undefined ? 'the header X-API-Key is missing' : 'the API key is not valid';
    throw new E2bError(401, what);
  });
  app.addHook('preValidation', async (request) => {
    if (request.body === undefined && request.method !== 'GET') request.body = {};
  });
  app.setNotFoundHandler(async (request) => {
    throw new E2bError(404, `no route ${request.method} ${request.url.slice(0, 200)}`);
  });
  app.setErrorHandler(async (error: FastifyError, request, reply) =>
    sendError(asE2b(error), request, reply),
  );
  app.get('/health', async (_request, reply) => reply.status(204).send());
  addSandboxRoutes(app.withTypeProvider() as unknown as App, parts);
  await app.ready();
  return app as unknown as App;

  function sendError(error: unknown, request: FastifyRequest, reply: FastifyReply): FastifyReply {
    const known = errorReply(error);
    if (known === null) {
      log.error(`${request.method} ${request.routeOptions.url ?? '?'}`, {
        error: describeError(error),
      });
    }
    const { status, headers, body } = known ?? INTERNAL;
    return reply.status(status).headers(headers).type('application/json').send(body);
  }
}

/** Fastify's own errors as refusals. */
function asE2b(error: FastifyError): unknown {
  if (hasZodFastifySchemaValidationErrors(error)) {
    const problems = error.validation.map(
      ({ instancePath, message }) => `${instancePath.slice(1).replaceAll('/', '.')}: ${message}`,
    );
    return new E2bError(400, problems.join('; '));
  }
  const { statusCode = 500, message } = error;
  if (!(error instanceof E2bError) && statusCode >= 400 && statusCode < 500) {
    return new E2bError(statusCode, message);
  }
  return error;
}
