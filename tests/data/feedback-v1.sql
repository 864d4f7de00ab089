BEGIN TRANSACTION;
CREATE TABLE labels (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	round INTEGER NOT NULL, 
	evaluator VARCHAR NOT NULL, 
	image_id VARCHAR NOT NULL, 
	kind VARCHAR NOT NULL, 
	value VARCHAR, 
	other VARCHAR, 
	suggested VARCHAR, 
	seconds DOUBLE, 
	created_at VARCHAR NOT NULL
);
INSERT INTO "labels" VALUES(1,1,'oracle','r0001-i0002','verdict','good',NULL,NULL,NULL,'2026-11-24T15:29:25.768521+00:00');
INSERT INTO "labels" VALUES(2,1,'oracle','r0001-i0000','verdict','bad',NULL,NULL,NULL,'2026-11-24T15:29:25.768521+00:00');
INSERT INTO "labels" VALUES(3,1,'oracle','r0001-i0001','verdict','good',NULL,NULL,NULL,'2026-11-24T15:29:25.768521+00:00');
INSERT INTO "labels" VALUES(4,1,'oracle','r0001-i0003','verdict','bad',NULL,NULL,NULL,'2026-11-24T15:29:25.768521+00:00');
INSERT INTO "labels" VALUES(5,1,'oracle','r0001-i0002','best','yes',NULL,NULL,NULL,'2026-11-24T15:29:25.768521+00:00');
INSERT INTO "labels" VALUES(6,2,'zoe','r0002-i0000','verdict','good',NULL,'bad',0.75,'2026-11-24T15:29:25.801137+00:00');
INSERT INTO "labels" VALUES(7,2,'ada','r0002-i0001','verdict','good',NULL,NULL,NULL,'2026-11-24T15:29:25.826350+00:00');
INSERT INTO "labels" VALUES(8,2,'zoe','r0002-i0000','verdict','bad',NULL,NULL,NULL,'2026-11-24T15:29:25.840051+00:00');
INSERT INTO "labels" VALUES(9,2,'zoe','r0002-i0003','verdict','good',NULL,NULL,NULL,'2026-11-24T15:29:25.840051+00:00');
INSERT INTO "labels" VALUES(10,2,'zoe','r0002-i0003','best','yes',NULL,NULL,NULL,'2026-11-24T15:29:25.840051+00:00');
INSERT INTO "labels" VALUES(11,2,'ada','r0002-i0001','verdict',NULL,NULL,NULL,NULL,'2026-11-24T15:29:25.847093+00:00');
INSERT INTO "labels" VALUES(12,2,'ada','r0002-i0001','verdict','good',NULL,NULL,NULL,'2026-11-24T15:29:25.847093+00:00');
INSERT INTO "labels" VALUES(13,2,'ada','r0002-i0002','verdict','bad',NULL,NULL,NULL,'2026-11-24T15:29:25.847093+00:00');
INSERT INTO "labels" VALUES(14,2,'ada','r0002-i0001','best','yes',NULL,NULL,NULL,'2026-11-24T15:29:25.847093+00:00');
INSERT INTO "labels" VALUES(15,2,'ada','r0002-i0001','score','0.30000000000000004',NULL,NULL,NULL,'2026-11-24T15:29:25.847093+00:00');
INSERT INTO "labels" VALUES(16,2,'ada','r0002-i0001','pair','yes','r0002-i0002',NULL,NULL,'2026-11-24T15:29:25.847093+00:00');
INSERT INTO "labels" VALUES(17,3,'ada','r0003-i0000','verdict','good',NULL,NULL,NULL,'2026-11-24T15:29:25.855922+00:00');
CREATE TABLE meta (
	"key" VARCHAR NOT NULL, 
	value VARCHAR NOT NULL, 
	PRIMARY KEY ("key")
);
INSERT INTO "meta" VALUES('schema_version','1');
CREATE TABLE submissions (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	round INTEGER NOT NULL, 
	evaluator VARCHAR NOT NULL, 
	seconds DOUBLE, 
	created_at VARCHAR NOT NULL, 
	UNIQUE (round, evaluator)
);
INSERT INTO "submissions" VALUES(1,1,'oracle',2.5,'2026-11-24T15:29:25.769536+00:00');
INSERT INTO "submissions" VALUES(2,2,'zoe',12.0,'2026-11-24T15:29:25.843410+00:00');
INSERT INTO "submissions" VALUES(3,2,'ada',3.0,'2026-11-24T15:29:25.847404+00:00');
CREATE INDEX labels_by_round ON labels (round, evaluator);
CREATE TRIGGER labels_no_update BEFORE UPDATE ON labels  BEGIN SELECT RAISE(ABORT, 'labels are append-only'); END;
CREATE TRIGGER labels_no_delete BEFORE DELETE ON labels  BEGIN SELECT RAISE(ABORT, 'labels are append-only'); END;
CREATE TRIGGER labels_no_replace BEFORE INSERT ON labels WHEN EXISTS (SELECT 1 FROM labels WHERE id = NEW.id) BEGIN SELECT RAISE(ABORT, 'labels are append-only'); END;
CREATE TRIGGER submissions_no_update BEFORE UPDATE ON submissions  BEGIN SELECT RAISE(ABORT, 'submissions are append-only'); END;
CREATE TRIGGER submissions_no_delete BEFORE DELETE ON submissions  BEGIN SELECT RAISE(ABORT, 'submissions are append-only'); END;
CREATE TRIGGER submissions_no_replace BEFORE INSERT ON submissions WHEN EXISTS (SELECT 1 FROM submissions WHERE id = NEW.id OR (round = NEW.round AND evaluator = NEW.evaluator)) BEGIN SELECT RAISE(ABORT, 'submissions are append-only'); END;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('labels',17);
INSERT INTO "sqlite_sequence" VALUES('submissions',3);
COMMIT;
