-- Reconciliation over the tables of all services, seen through postgres_fdw as schemas of their names.
-- Each view of the schema `books` shows what is wrong, and is empty where the books balance.

CREATE SCHEMA books;

CREATE VIEW books.pending_orders AS
SELECT * FROM orders.orders WHERE status = 'pending';

CREATE VIEW books.orders_against_ledger AS
SELECT o.id, o.user_id, o.status, w.ref, w.status AS withdrawal
FROM orders.orders o
FULL JOIN (SELECT * FROM billing.operations WHERE starts_with(ref, 'order:')) w ON w.ref = 'order:' || o.id
WHERE (o.user_id, o.price_minor, 'withdrawal', o.reason,
       CASE o.status WHEN 'paid' THEN 'done' WHEN 'rejected' THEN 'refused' END)
  IS DISTINCT FROM (w.user_id, w.amount_minor, w.kind, w.reason, w.status);

CREATE VIEW books.ledger_against_balances AS
SELECT user_id, a.balance_minor, l.balance, a.last_seq, l.entries
FROM billing.accounts a
FULL JOIN (
  SELECT user_id, count(*) AS entries,
         sum(CASE WHEN status = 'refused' THEN 0 WHEN kind = 'deposit' THEN amount_minor ELSE -amount_minor END)
           AS balance
  FROM billing.operations GROUP BY user_id
) l USING (user_id)
WHERE (a.balance_minor, a.last_seq) IS DISTINCT FROM (coalesce(l.balance, 0), coalesce(l.entries, 0));

CREATE VIEW books.orders_against_letters AS
SELECT o.id, o.status, l.order_id, l.kind
FROM orders.orders o
FULL JOIN (SELECT * FROM notifications.letters WHERE order_id IS NOT NULL) l ON l.order_id = o.id
WHERE (o.user_id, CASE o.status WHEN 'paid' THEN 'happiness' WHEN 'rejected' THEN 'grief' END)
  IS DISTINCT FROM (l.user_id, l.kind);

CREATE VIEW books.unsent_events AS
SELECT event_id FROM orders.outbox WHERE sent_at IS NULL
UNION ALL
SELECT event_id FROM users.outbox WHERE sent_at IS NULL;

-- Sent events are cleaned up after a time, so an order may have none any more.
CREATE VIEW books.events_against_orders AS
SELECT e.*, o.status
FROM (SELECT type, (payload ->> 'order_id')::uuid AS id, count(*) AS copies FROM orders.outbox GROUP BY 1, 2) e
LEFT JOIN orders.orders o USING (id)
WHERE e.copies > 1 OR e.type IS DISTINCT FROM 'order_' || o.status;

CREATE VIEW books.users_accounts_recipients AS
SELECT u.id, a.user_id AS account, r.user_id AS recipient
FROM users.users u
FULL JOIN billing.accounts a ON a.user_id = u.id
FULL JOIN notifications.recipients r ON r.user_id = coalesce(u.id, a.user_id)
WHERE u.id IS NULL OR a.user_id IS NULL OR r.user_id IS NULL;

-- Whether something is still on its way; asked again and again, so it is quick.
CREATE VIEW public.unfinished AS
SELECT EXISTS (SELECT FROM orders.outbox WHERE sent_at IS NULL)
    OR EXISTS (SELECT FROM orders.orders WHERE status = 'pending')
    OR (SELECT count(*) FROM orders.orders)
        > (SELECT count(*) FROM notifications.letters WHERE order_id IS NOT NULL);
