// mysql2 for Node as applications use it: pools, binary statements, types, batches, errors by code, and a
// transaction that goes on while a server dies.
'use strict';
const assert = require('assert');
const readline = require('readline');
const mysql = require('mysql2/promise');

const options = {
  host: '127.0.0.1', port: Number(process.env.MYSQL_PORT), user: 'app', password: process.env.MYSQL_PWD,
  database: 'app', charset: 'utf8mb4', timezone: 'Z', supportBigNumbers: true,
};

async function refused(code, act) {
  await assert.rejects(act, (error) => {
    assert.strictEqual(error.code, code, error.message);
    return true;
  });
}

function line() {
  return new Promise((done) => readline.createInterface({ input: process.stdin }).once('line', done));
}

async function main() {
  const db = await mysql.createConnection(options);
  await db.query('create table n2 (id bigint auto_increment primary key, name varchar(40) unique, n int, d decimal(10,2), '
    + 'f double, at datetime(3), b blob, j json, u bigint unsigned, y tinyint)');
  const at = new Date(Date.UTC(2024, 1, 29, 23, 59, 59, 123));
  const values = ["it's \\ \"q\" ü 🐬", -7, '1.50', 0.1, at, Buffer.from([0, 255, 39, 92]), JSON.stringify({ a: [1] }),
    '18446744073709551615', 1];
  const insert = 'insert into n2 (name, n, d, f, at, b, j, u, y) values (?, ?, ?, ?, ?, ?, ?, ?, ?)';
  const [done] = await db.execute(insert, values);
  assert.strictEqual(done.insertId, 1);
  assert.strictEqual(done.affectedRows, 1);
  for (const ask of ['query', 'execute']) {
    const [[row], fields] = await db[ask]('select * from n2 where id = ?', [1]);
    assert.strictEqual(row.name, values[0]);
    assert.strictEqual(row.at.getTime(), at.getTime());
    assert.deepStrictEqual(row.b, values[5]);
    assert.strictEqual(String(row.u), '18446744073709551615');
    assert.strictEqual(row.d, '1.50');
    assert.strictEqual(fields[0].name, 'id');
  }
  // Batches.
  const rows = Array.from({ length: 100 }, (_, i) => [`n${i}`, i]);
  const [batch] = await db.query('insert into n2 (name, n) values ?', [rows]);
  assert.strictEqual(batch.affectedRows, 100);
  for (let i = 0; i < 20; i += 1) {
    await db.execute('update n2 set n = n + ? where name = ?', [1, `n${i}`]);
  }
  const [[sum]] = await db.query('select sum(n) as s from n2 where id > 1');
  assert.strictEqual(Number(sum.s), 4950 + 20);
  // Errors, and what is left after them.
  await refused('ER_DUP_ENTRY', () => db.execute('insert into n2 (name) values (?)', ['n1']));
  await refused('ER_NO_SUCH_TABLE', () => db.query('select * from nowhere'));
  await refused('ER_PARSE_ERROR', () => db.query('nonsense'));
  await refused('ER_PARSE_ERROR', () => db.query('select 1; select 2'));
  await refused('ER_ACCESS_DENIED_ERROR', () => mysql.createConnection({ ...options, password: 'no' }));
  // Transactions.
  await db.beginTransaction();
  await db.execute('delete from n2 where id > ?', [1]);
  await db.rollback();
  const [[count]] = await db.query('select count(*) as c from n2');
  assert.strictEqual(Number(count.c), 101);
  // Several results, and procedures.
  const many = await mysql.createConnection({ ...options, multipleStatements: true });
  const [results] = await many.query('select 1 as a; update n2 set y = 2 where id = 1; select y from n2 where id = 1');
  assert.deepStrictEqual([results[0][0].a, results[1].affectedRows, results[2][0].y], [1, 1, 2]);
  await many.query('create procedure np(x int) begin select x; select x + 1 as y; end');
  const [called] = await many.query('call np(?)', [4]);
  assert.deepStrictEqual([called[0][0].x, Number(called[1][0].y)], [4, 5]);
  await many.query('drop procedure np');
  // Streaming.
  const seen = await new Promise((resolve, reject) => {
    let rowsSeen = 0;
    const stream = many.connection.query('select id from n2').stream();
    stream.on('data', () => { rowsSeen += 1; }).on('error', reject).on('end', () => resolve(rowsSeen));
  });
  assert.strictEqual(seen, 101);
  // Another user on the same connection, and back.
  await many.changeUser({ user: 'guest', password: 'welcome', database: 'app' });
  const [[who]] = await many.query('select user() as u');
  assert.strictEqual(who.u, 'guest@localhost');
  await refused('ER_TABLEACCESS_DENIED_ERROR', () => many.query('delete from n2'));
  await many.changeUser({ user: 'app', password: options.password, database: 'app' });
  await many.ping();
  await many.end();
  // A pool under load.
  const pool = mysql.createPool({ ...options, connectionLimit: 6 });
  await Promise.all(Array.from({ length: 60 }, (_, i) => pool.execute('insert into n2 (name, n) values (?, ?)', [`p${i}`, i])));
  const [[pooled]] = await pool.query("select count(*) as c from n2 where name like 'p%'");
  assert.strictEqual(Number(pooled.c), 60);
  await pool.end();
  // A server dies in the middle of a transaction.
  await db.query('set session transaction isolation level read committed');
  await db.beginTransaction();
  await db.execute('insert into n2 (name, n) values (?, ?)', ['before', 10]);
  console.log('kill');
  await line();
  await db.execute('update n2 set n = n + ? where name = ?', [1, 'before']);
  await db.commit();
  const [[after]] = await db.execute('select n from n2 where name = ?', ['before']);
  assert.strictEqual(after.n, 11);
  await db.query('drop table n2');
  await db.end();
  console.log('done');
}

main().then(() => process.exit(0), (error) => {
  console.error(error);
  process.exit(1);
});
