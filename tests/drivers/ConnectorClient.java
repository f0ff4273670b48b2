// MariaDB Connector/J as applications use it: JDBC's connections, statements prepared on the server,
// transactions, batches, types, errors by number, and a transaction that goes on while a server dies.

import java.math.BigDecimal;
import java.nio.charset.StandardCharsets;
import java.sql.CallableStatement;
import java.sql.Connection;
import java.sql.Date;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import java.sql.Timestamp;
import java.util.Arrays;

public class ConnectorClient {
    interface Act {
        void run() throws SQLException;
    }

    static void check(boolean holds, String what) {
        if (!holds) {
            throw new AssertionError(what);
        }
    }

    static void refused(int number, Act act) {
        try {
            act.run();
        } catch (SQLException error) {
            check(error.getErrorCode() == number, number + " was expected: " + error);
            return;
        }
        throw new AssertionError("error " + number + " was expected");
    }

    static Connection connect(String more) throws SQLException {
        String url = "jdbc:mariadb://127.0.0.1:" + System.getenv("MYSQL_PORT") + "/app?user=app&password="
            + System.getenv("MYSQL_PWD") + more;
        return DriverManager.getConnection(url);
    }

    static long number(Connection db, String sql) throws SQLException {
        try (Statement ask = db.createStatement(); ResultSet rows = ask.executeQuery(sql)) {
            check(rows.next(), sql);
            return rows.getLong(1);
        }
    }

    static void types(Connection db) throws SQLException {
        byte[] bytes = {0, -1, 39, 92};
        String text = "it's \\ \"q\" \u00fc \ud83d\udc2c";
        Timestamp at = Timestamp.valueOf("2024-02-29 23:59:59.123456");
        String insert = "insert into cj (name, n, d, f, at, day, b, flag) values (?, ?, ?, ?, ?, ?, ?, ?)";
        try (PreparedStatement put = db.prepareStatement(insert, Statement.RETURN_GENERATED_KEYS)) {
            put.setString(1, text);
            put.setInt(2, -7);
            put.setBigDecimal(3, new BigDecimal("1.50"));
            put.setDouble(4, 0.1);
            put.setTimestamp(5, at);
            put.setDate(6, Date.valueOf("2024-02-29"));
            put.setBytes(7, bytes);
            put.setBoolean(8, true);
            check(put.executeUpdate() == 1, "one row");
            ResultSet keys = put.getGeneratedKeys();
            check(keys.next() && keys.getLong(1) > 0, "a key");
        }
        try (PreparedStatement ask = db.prepareStatement("select * from cj where name = ?")) {
            ask.setString(1, text);
            ResultSet row = ask.executeQuery();
            check(row.next() && row.getInt("n") == -7 && row.getBoolean("flag"), "numbers");
            check(row.getBigDecimal("d").equals(new BigDecimal("1.50")) && row.getDouble("f") == 0.1, "decimals");
            check(row.getTimestamp("at").equals(at) && row.getDate("day").toString().equals("2024-02-29"), "times");
            check(Arrays.equals(row.getBytes("b"), bytes), "bytes");
        }
    }

    static void batches(Connection db) throws SQLException {
        try (PreparedStatement put = db.prepareStatement("insert into cj (name, n) values (?, ?)")) {
            for (int i = 0; i < 100; i++) {
                put.setString(1, "n" + i);
                put.setInt(2, i);
                put.addBatch();
            }
            check(put.executeBatch().length == 100, "a batch");
        }
        try (Statement some = db.createStatement()) {
            some.addBatch("update cj set n = n + 1 where name = 'n1'");
            some.addBatch("update cj set n = n + 1 where name in ('n2', 'n3')");
            check(Arrays.equals(some.executeBatch(), new int[] {1, 2}), "counts of a batch");
        }
    }

    static void transactions(Connection db) throws SQLException {
        db.setAutoCommit(false);
        try (Statement run = db.createStatement()) {
            run.executeUpdate("delete from cj where n > 50");
            Savepoint before = db.setSavepoint("before");
            run.executeUpdate("delete from cj");
            db.rollback(before);
            long left = number(db, "select count(*) from cj");
            check(left > 10 && left < 100, "what the savepoint kept: " + left);
            db.rollback();
            check(number(db, "select count(*) from cj") == 101, "all is back");
            refused(1062, () -> run.executeUpdate("insert into cj (name) values ('n1')"));
            db.commit();
            refused(1146, () -> run.executeQuery("select * from nowhere"));
            refused(1064, () -> run.executeQuery("nonsense"));
        }
        db.setAutoCommit(true);
    }

    static void procedures(Connection db) throws SQLException {
        try (Statement run = db.createStatement()) {
            run.execute("create procedure cp(a int) begin select a; select a + 1; end");
            try (CallableStatement call = db.prepareCall("{call cp(?)}")) {
                call.setInt(1, 41);
                check(call.execute(), "the first result");
                ResultSet first = call.getResultSet();
                check(first.next() && first.getInt(1) == 41 && call.getMoreResults(), "the second result");
                ResultSet second = call.getResultSet();
                check(second.next() && second.getInt(1) == 42, "its value");
            }
            run.execute("drop procedure cp");
            run.setFetchSize(7);
            ResultSet rows = run.executeQuery("select id from cj");
            int seen = 0;
            while (rows.next()) {
                seen++;
            }
            check(seen == 101, "rows in portions: " + seen);
        }
    }

    public static void main(String[] arguments) throws Exception {
        for (String more : new String[] {"", "&useServerPrepStmts=true", "&rewriteBatchedStatements=true", "&allowMultiQueries=true"}) {
            try (Connection db = connect(more)) {
                check(db.isValid(5) && db.getCatalog().equals("app"), "a connection");
                try (Statement run = db.createStatement()) {
                    run.execute("create table cj (id bigint auto_increment primary key, name varchar(40) unique, n int, "
                        + "d decimal(10,2), f double, at datetime(6), day date, b blob, flag bit(1))");
                }
                types(db);
                batches(db);
                transactions(db);
                procedures(db);
                try (Statement run = db.createStatement()) {
                    run.execute("drop table cj");
                }
            }
        }
        refused(1045, () -> DriverManager.getConnection(
            "jdbc:mariadb://127.0.0.1:" + System.getenv("MYSQL_PORT") + "/app?user=app&password=no"));
        try (Connection db = connect("&useServerPrepStmts=true"); Statement run = db.createStatement()) {
            run.execute("create table cj (id int primary key, n int)");
            db.setTransactionIsolation(Connection.TRANSACTION_READ_COMMITTED);
            db.setAutoCommit(false);
            run.executeUpdate("insert into cj values (1, 10)");
            System.out.println("kill");
            System.in.read();
            try (PreparedStatement add = db.prepareStatement("update cj set n = n + ? where id = ?")) {
                add.setInt(1, 1);
                add.setInt(2, 1);
                check(add.executeUpdate() == 1, "the transaction goes on");
            }
            db.commit();
            db.setAutoCommit(true);
            check(number(db, "select n from cj") == 11, "both are there");
            run.execute("drop table cj");
        }
        System.out.println("done");
    }
}
