// mysql2 for Node as applications use it: a pool, prepared statements, transactions.
"use strict";
const assert = require("assert");
const mysql = require("mysql2/promise");

async function refused(number, act) {
  await assert.rejects(act, (error) => error.errno === number || assert.fail(error));
}

async function main() {
  const pool = mysql.createPool({
    host: "127.0.0.1",
    port: Number(process.env.MYSQL_PORT),
    user: "app",
    password: process.env.MYSQL_PWD,
    database: "app",
    connectionLimit: 4,
    supportBigNumbers: true,
  });
  await pool.query("create table js (id bigint auto_increment primary key, name varchar(40), n int, at datetime(3), b blob)");
  const at = new Date("2024-02-29T12:34:56.789Z");
  for (let i = 0; i < 3; i++) {
    const [done] = await pool.execute("insert into js (name, n, at, b) values (?, ?, ?, ?)", [`ü${i}`, i, at, Buffer.from([0, 255, i])]);
    assert.strictEqual(done.insertId, i + 1);
  }
  const [rows] = await pool.execute("select * from js where n >= ? order by id", [1]);
  assert.deepStrictEqual(rows.map((row) => row.name), ["ü1", "ü2"]);
  assert.deepStrictEqual(rows[1].b, Buffer.from([0, 255, 2]));
  assert.strictEqual(rows[0].at.getTime(), at.getTime());
  await pool.execute("insert into js (name, n) values (?, ?)", [null, null]);
  await refused(1146, () => pool.execute("select * from nowhere where id = ?", [1]));
  await refused(1064, () => pool.query("nonsense"));

  const one = await pool.getConnection();
  await one.beginTransaction();
  await one.execute("update js set n = n + ? where id = ?", [10, 1]);
  await refused(1062, () => one.execute("insert into js (id) values (?)", [1]));
  const [[inside]] = await one.execute("select n from js where id = ?", [1]);
  assert.strictEqual(inside.n, 10);
  await one.rollback();
  const [[outside]] = await pool.query("select n from js where id = 1");
  assert.strictEqual(outside.n, 0);
  await one.ping();
  await one.changeUser === undefined || one.release();

  const [all] = await pool.query("select count(*) as n, max(id) as last from js");
  assert.deepStrictEqual({ ...all[0] }, { n: 4, last: 4 });
  await Promise.all([...Array(20).keys()].map((i) => pool.execute("update js set n = n + 1 where id = ?", [(i % 4) + 1])));
  await pool.query("drop table js");
  await pool.end();
  console.log("done");
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
