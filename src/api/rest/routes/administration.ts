/** Keys, tenants and settings of the host. */

import type { Administration } from '../../tenants/administration.ts';
import { type App, failures } from '../route.ts';
import {
  createdKey,
  hostChange,
  hostSettings,
  keyInfo,
  keyList,
  keyParams,
  keyRequest,
  tenantChange,
  tenantInfo,
  tenantList,
  tenantOrAllParams,
  tenantParams,
  tenantRemoval,
  tenantUse,
} from '../schema/administration.ts';

export function addAdministrationRoutes(app: App, administration: Administration): void {
  addKeyRoutes(app, administration);
  addTenantRoutes(app, administration);
  app.get(
    '/settings',
    {
      schema: {
        tags: ['administration'],
        operationId: 'getSettings',
        summary: 'Get the settings of the host',
        response: { 200: hostSettings, ...failures },
      },
    },
    () => administration.settings(),
  );
  app.put(
    '/settings',
    {
      schema: {
        tags: ['administration'],
        operationId: 'setSettings',
        summary: 'Set settings of the host, which hold at once',
        body: hostChange,
        response: { 200: hostSettings, ...failures },
      },
    },
    ({ body }) => administration.setSettings(body),
  );
}

function addKeyRoutes(app: App, administration: Administration): void {
  app.get(
    '/keys',
    {
      schema: {
        tags: ['administration'],
        operationId: 'listKeys',
        summary: 'List the keys of tenants, including revoked ones',
        response: { 200: keyList, ...failures },
      },
    },
    async () => ({ keys: [...(await administration.keys())] }),
  );
  app.post(
    '/keys',
    {
      schema: {
        tags: ['administration'],
        operationId: 'createKey',
        summary: 'Create a key of a tenant',
        description: 'Only this answer has the key: the home stores its SHA-256.',
        body: keyRequest,
        response: { 201: createdKey, ...failures },
      },
    },
    async ({ body: { tenant, name = null, expiresInMs } }, reply) =>
      await reply.status(201).send(await administration.createKey(tenant, name, expiresInMs)),
  );
  app.delete(
    '/keys/:key',
    {
      schema: {
        tags: ['administration'],
        operationId: 'revokeKey',
        summary: 'Revoke a key',
        description: 'Requests with it are refused from now on, and what it has open ends. Its sandboxes stay.',
        params: keyParams,
        response: { 200: keyInfo, ...failures },
      },
    },
    ({ params }) => administration.revokeKey(params.key),
  );
}

function addTenantRoutes(app: App, administration: Administration): void {
  app.get(
    '/tenants',
    {
      schema: {
        tags: ['administration'],
        operationId: 'listTenants',
        summary: 'List the tenants for which something was set',
        response: { 200: tenantList, ...failures },
      },
    },
    async () => ({ tenants: [...(await administration.tenants())] }),
  );
  app.get(
    '/tenants/:tenant',
    {
      schema: {
        tags: ['administration'],
        operationId: 'getTenant',
        summary: 'Get the quotas and the budget of a tenant',
        params: tenantOrAllParams,
        response: { 200: tenantInfo, ...failures },
      },
    },
    ({ params }) => administration.tenant(params.tenant),
  );
  app.get(
    '/tenants/:tenant/use',
    {
      schema: {
        tags: ['administration'],
        operationId: 'getTenantUse',
        summary: 'Get what a tenant uses of its quotas',
        params: tenantParams,
        response: { 200: tenantUse, ...failures },
      },
    },
    ({ params }) => administration.tenantUse(params.tenant),
  );
  app.patch(
    '/tenants/:tenant',
    {
      schema: {
        tags: ['administration'],
        operationId: 'updateTenant',
        summary: 'Set quotas and the budget of a tenant',
        description: 'Holds at once, but ends no sandbox that already exceeds a quota.',
        params: tenantOrAllParams,
        body: tenantChange,
        response: { 200: tenantInfo, ...failures },
      },
    },
    ({ params, body }) => administration.setTenant(params.tenant, body),
  );
  app.delete(
    '/tenants/:tenant',
    {
      schema: {
        tags: ['administration'],
        operationId: 'removeTenant',
        summary: 'Revoke the keys of a tenant and remove what was set for it',
        description:
          'Also ends its sandboxes, removes its snapshots and its use of budgets, and erases the key that encrypts its ' +
          'saves. Its records in the audit logs stay.',
        params: tenantParams,
        response: { 200: tenantRemoval, ...failures },
      },
    },
    ({ params }) => administration.removeTenant(params.tenant),
  );
}
